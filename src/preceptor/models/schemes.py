"""The names of the ways to draw starting weights; settings, which need no torch."""

from typing import Literal

Scheme = Literal["gpt2", "normal", "bert", "modernbert", "small", "xavier", "depth"]
"""The names of the schemes.

gpt2: normal, each layer's output projections divided by the root of twice the number of layers. Source: Radford et al.
2019, section 2.3, for the division; Shoeybi et al. 2019 (Megatron-LM) for the factor of two, as transformers has it.

normal: normal, all alike, as transformers starts Llama and, other than its original, BERT.

bert: normal, cut off at two deviations. Source: the code published with Devlin et al. 2019 (TensorFlow's
truncated_normal_initializer, whose draws are therefore 0.88 times as wide as asked for).

modernbert: as gpt2, cut off at three deviations; the output head counts as an output. Source: Warner et al. 2024 and
the code published with it.

small: normal, of deviation sqrt(2 / 5D), output projections 2 / (L sqrt(D)). Source: Nguyen and Salazar 2019, section
2.2; Black et al. 2022 (GPT-NeoX-20B), section 2.1.2, for the outputs.

xavier: uniform, of variance 2 / (rows + columns), embeddings normal of variance 1 / D. Source: Glorot and Bengio 2010,
eq. 16; the code published with Vaswani et al. 2017 (tensor2tensor) for both.

depth: xavier, the matrices of layer l (from 1) divided by the root of l. Source: Zhang et al. 2019, eq. 6.
"""
