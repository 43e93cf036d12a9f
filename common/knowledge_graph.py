"""The public knowledge graph of a catalogue: RecBole's NAME.kg (triples) and NAME.link (item -> entity).

It keeps which entities an item touches; it knows no user and builds no matrix (common/item_graph.py does).
"""

from __future__ import annotations

from pathlib import Path

from hushrec.common.catalog import Catalog
from hushrec.common.errors import DataError
from hushrec.common.recbole import find_recbole, read_atomic


def read_item_entities(folder: Path, catalog: Catalog) -> list[tuple[str, ...]]:
    """The entities next to each item, whichever way a triple points, and the item's own entity.

    Two films that name the same person share an entity; a sequel shares the entity of the film it names.

    Args:
        folder: holds NAME.inter, NAME.kg and NAME.link.
    Returns:
        Aligned with the catalogue, each sorted; empty for an item without a link.
    Raises:
        DataError: the files are not there, or damaged.
    """
    found = find_recbole(folder)
    triples, links = (found.with_suffix(suffix) if found else folder / f"NAME{suffix}" for suffix in (".kg", ".link"))
    if not triples.is_file() or not links.is_file():
        raise DataError(
            f'{folder}: expected {triples.name} and {links.name} beside the atomic files, which "kg" and "all" of '
            'model.graph and server.warm-start read; add them, or choose "attributes" or "text"'
        )
    table = read_atomic(links, ("item_id", "entity_id"))
    entity_of = dict(zip(table.cells("item_id"), table.cells("entity_id"), strict=True))
    around: dict[str, set[str]] = {entity: {entity} for entity in entity_of.values()}
    table = read_atomic(triples, ("head_id", "tail_id"))
    for head, tail in zip(table.cells("head_id"), table.cells("tail_id"), strict=True):
        if head in around:
            around[head].add(tail)
        if tail in around:
            around[tail].add(head)
    return [tuple(sorted(around.get(entity_of.get(item, ""), ()))) for item in catalog.item_ids]
