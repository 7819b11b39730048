"""What each process of a mesh would hold, found without starting one."""

from collections.abc import Mapping

from preceptor.models.language_model import LanguageModel
from preceptor.parallel import data, pipeline, tensor
from preceptor.parallel.layout import Piece
from preceptor.parallel.mesh import Mesh
from preceptor.parallel.mesh_config import MeshConfig, sizes_of
from preceptor.parallel.tensor_limits import require_splittable


def planned(model: LanguageModel, mesh: Mesh, table: Mapping[str, str]) -> dict[str, Piece]:
    """The piece of each weight that a process of a mesh holds, in the same steps in which a model is cut up.

    Raises:
        ConfigError: the model cannot be cut up in this way; names what works.
    """
    copies = frozenset(axis for axis in mesh.coordinates if getattr(mesh.sizes, axis) > 1)
    pieces = {name: Piece.whole(weight.shape, copies) for name, weight in model.named_parameters()}
    if mesh.sizes.pipeline > 1:
        pieces = pipeline.planned(model, pieces, mesh)
    if mesh.sizes.tensor > 1:
        require_splittable(model, mesh, bool(table))
        pieces = tensor.planned(pieces, mesh, table)
    if mesh.sizes.shard > 1:
        data.require_all_layers(model)
        pieces = data.planned(pieces, mesh)
    return pieces


def planned_by_rank(model: LanguageModel, config: MeshConfig, table: Mapping[str, str]) -> list[dict[str, Piece]]:
    """The same for every process of the mesh that a recipe describes.

    Raises:
        ConfigError: as above, or the axes do not multiply to the number of processes.
    """
    world = max(1, config.replicate) * config.shard * config.tensor * config.pipeline
    sizes = sizes_of(config, config.processes if config.processes > 1 else world)
    return [planned(model, Mesh(sizes, rank, config), table) for rank in range(sizes.world)]
