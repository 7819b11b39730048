"""Twenty faults that users of other trainers met: each has a test here, and docs/reliability.md names the same."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = {
    1: (
        "tests/train/test_one_update.py::test_ragged_microbatches_give_the_gradient_and_the_loss_of_the_whole_batch",
        "tests/train/test_one_update.py::test_the_loss_of_a_step_that_is_told_does_not_depend_on_the_microbatches",
    ),
    2: (
        "tests/train/test_resume.py::test_after_a_kill_dropout_and_noise_go_on_bit_for_bit_in_and_between_epochs",
        "tests/train/test_resume.py::test_dropout_and_noise_are_there_and_differ_from_step_to_step",
    ),
    3: ("tests/train/test_resume.py::test_the_rows_of_a_later_epoch_are_the_same_after_a_resume_in_it",),
    4: (
        "tests/train/test_resume.py::test_killed_three_times_every_row_of_an_epoch_comes_exactly_once",
        "tests/faults/test_killed.py::test_row_13_the_rows_of_each_step_are_the_same_after_a_kill_none_lost_none_twice",
    ),
    5: (
        "tests/train/test_orders.py::test_every_epoch_is_a_permutation_of_its_own",
        "tests/train/test_orders.py::test_the_rows_of_a_step_do_not_depend_on_how_it_is_cut",
    ),
    6: (
        "tests/train/test_orders.py::test_what_is_hidden_differs_by_row_and_epoch_and_follows_from_the_seed",
        "tests/train/test_orders.py::test_generators_of_many_uses_are_pairwise_different_and_reproducible",
    ),
    7: ("tests/train/test_one_update.py::test_the_rate_is_its_closed_form_under_accumulation_and_after_every_stop",),
    8: (
        "tests/faults/test_killed.py::test_row_02_killed_at_every_call_that_changes_a_file",
        "tests/faults/test_killed.py::test_row_02_killed_in_a_save_the_older_checkpoint_stands_and_drafts_are_swept",
        "tests/core/test_crash.py::test_killed_before_every_act_on_files",
    ),
    9: (
        "tests/train/test_saves.py::test_fifty_saves_in_a_row_leave_the_newest_and_no_draft",
        "tests/train/test_saves.py::test_two_processes_that_save_in_one_folder_do_each_other_no_harm",
        "tests/core/test_crash.py::test_two_writers_of_one_target_do_not_harm_each_other",
    ),
    10: ("tests/train/test_checkpoint.py::test_whatever_is_saved_the_newest_and_the_best_are_there",),
    11: (
        "tests/train/test_saves.py::test_what_is_loaded_is_all_that_was_saved_for_every_rule",
        "tests/train/test_saves.py::test_a_missing_or_an_unknown_key_of_whatever_was_saved_is_refused",
    ),
    12: (
        "tests/objectives/test_answers.py::test_as_many_ends_are_supervised_as_there_are_documents",
        "tests/objectives/test_answers.py::test_a_model_that_learned_a_few_answers_stops_by_itself",
    ),
    13: (
        "tests/objectives/test_packed_losses.py::test_the_loss_of_packed_documents_is_the_sum_of_theirs",
        "tests/objectives/test_packed_losses.py"
        "::test_another_first_document_leaves_the_logits_of_the_second_bit_identical",
        "tests/objectives/test_isolation.py::test_the_others_do_not_notice",
    ),
    14: ("tests/objectives/test_answers.py::test_what_is_trained_is_what_is_served_and_begins_once",),
    15: ("tests/objectives/test_answers.py::test_the_supervised_tokens_of_a_document_are_its_answer_and_nothing_else",),
    16: (
        "tests/objectives/test_answers.py"
        "::test_whatever_is_kept_leaves_something_to_learn_and_what_is_left_out_is_counted",
        "tests/objectives/test_instruct.py::test_too_many_that_are_too_long_are_refused_with_the_length_that_is_needed",
    ),
    17: (
        "tests/models/test_added_tokens.py::test_added_tokens_that_were_trained_are_the_same_in_a_fresh_process",
        "tests/models/test_growth.py::test_new_parts_are_read_again_in_a_fresh_process",
    ),
    18: (
        "tests/adapters/test_merging.py::test_merging_in_float32_changes_no_logit_and_survives_saving",
        "tests/adapters/test_merging.py::test_an_adapter_of_another_base_is_refused_before_anything_is_merged",
        "tests/adapters/test_several.py::test_an_adapter_of_another_base_is_refused_by_its_id",
        "tests/adapters/test_quantised.py::test_merging_gives_a_whole_model_that_says_what_the_adapted_one_said",
    ),
    19: (
        "tests/evaluate/test_flat_memory.py::test_ten_times_as_much_to_evaluate_holds_no_more_tensors",
        "tests/evaluate/test_flat_memory.py::test_what_is_kept_of_every_batch_would_be_seen",
    ),
    20: (
        "tests/train/test_saves.py::test_a_gradient_that_is_not_a_number_changes_no_weight_and_no_checkpoint",
        "tests/train/test_saves.py::test_weights_that_an_update_has_lost_take_no_checkpoints_place",
        "tests/train/test_saves.py::test_a_validation_that_is_not_a_number_is_never_the_best",
    ),
}
TABLE = {
    int(row[1]): re.findall(r"`(tests/\S+\.py::\w+)`", row[0])
    for row in re.finditer(r"^\| F(\d+) \|.*$", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"), re.M)
}


def names_in(path: Path) -> set[str]:
    """The names of the tests in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_no_fault_is_missing():
    assert list(TESTS) == list(TABLE) == list(range(1, 21))


@pytest.mark.parametrize("number", TESTS)
def test_each_fault_has_tests_that_exist_and_that_the_docs_name(number):
    assert TESTS[number]
    for test in TESTS[number]:
        file, _, name = test.partition("::")
        assert name in names_in(ROOT / file), test
    assert list(TESTS[number]) == TABLE[number]
