"""A small generated data set whose right answer is known: six tastes, each user keeps to one ("checkerboard").

It is for tests and first runs; its figures say nothing about real data.
"""

from __future__ import annotations

import numpy as np

from hushrec.common.catalog import Catalog, ItemRow, build_catalog
from hushrec.common.interaction_log import InteractionLog

# taste -> (adjectives, things, places): enough words for 6 * 6 * 4 distinct titles each.
TASTES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "Western": (
        ("Lonesome", "Dusty", "Outlaw", "Wild", "Last", "Fearless"),
        ("Cowboy", "Sheriff", "Gunslinger", "Stagecoach", "Rancher", "Posse"),
        ("of the Prairie", "of Dry Canyon", "from Laredo", "on the Frontier"),
    ),
    "Science Fiction": (
        ("Distant", "Robotic", "Quantum", "Orbital", "Alien", "Frozen"),
        ("Starship", "Android", "Galaxy", "Astronaut", "Planet", "Signal"),
        ("beyond Mars", "of the Nebula", "in Deep Space", "from Andromeda"),
    ),
    "Romance": (
        ("Tender", "Secret", "Forbidden", "Summer", "Sweet", "Faithful"),
        ("Kiss", "Wedding", "Bride", "Love Letter", "Valentine", "Honeymoon"),
        ("in Paris", "of the Heart", "under Moonlight", "in Verona"),
    ),
    "Crime": (
        ("Crooked", "Cold", "Silent", "Guilty", "Hidden", "Ruthless"),
        ("Detective", "Murder", "Heist", "Witness", "Gangster", "Alibi"),
        ("in Chinatown", "of the Underworld", "at Midnight", "on Death Row"),
    ),
    "Horror": (
        ("Haunted", "Bloody", "Cursed", "Screaming", "Undead", "Wicked"),
        ("Vampire", "Zombie", "Werewolf", "Ghost", "Witch", "Crypt"),
        ("of the Graveyard", "in the Cellar", "of Transylvania", "on Halloween"),
    ),
    "Sports": (
        ("Golden", "Rookie", "Unbeaten", "Mighty", "Olympic", "Winning"),
        ("Boxer", "Quarterback", "Goalkeeper", "Marathon", "Pitcher", "Team"),
        ("of the League", "in the Stadium", "at the Championship", "in Extra Time"),
    ),
}
_START = 946_684_800  # 2000-01-01 00:00:00 UTC
_HOUR = 3_600
_PER_SESSION = 3
_FEWEST, _MOST = 8, 14  # interactions of one user


def synthetic_source(
    n_users: int = 60, n_items: int = 120, seed: int = 0
) -> tuple[Catalog, InteractionLog, dict[str, str]]:
    """Generate catalogue, log and profiles.

    Item i and user u have taste i % 6 and u % 6. A user takes 8 to 14 items (at most all) of that taste, the
    popular ones more often, three to an hour; the second and third of an hour share one time.

    Args:
        n_users: >= 1.
        n_items: 6 to 864.
    Guarantees:
        - the same arguments give the same data, on every machine.
        - every interaction is with an item of the user's taste; `Catalog.genres[i][0]` is the taste of item i.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    tastes = tuple(TASTES)
    if n_users < 1 or not len(tastes) <= n_items <= 144 * len(tastes):
        raise ValueError(f"expected n_users >= 1 and 6 <= n_items <= 864, got {n_users} and {n_items}")
    rows = [_item(i, tastes[i % len(tastes)]) for i in range(n_items)]
    catalog, _ = build_catalog(rows, place_of=lambda number: f"synthetic item {number}")
    users, items, times = [], [], []
    for user in range(n_users):
        own = np.arange(user % len(tastes), n_items, len(tastes))
        weight = 1.0 / np.sqrt(1.0 + np.arange(len(own)))
        size = min(len(own), int(rng.integers(_FEWEST, _MOST + 1)))
        chosen = rng.choice(own, size=size, replace=False, p=weight / weight.sum())
        start = _START + _HOUR * int(rng.integers(0, 24 * 30))
        for place, item in enumerate(chosen.tolist()):
            session, step = divmod(place, _PER_SESSION)
            users.append(user)
            items.append(item)
            times.append(start + session * _HOUR + 60 * ((step + 1) // 2))
    log = InteractionLog(
        user_ids=tuple(str(user) for user in range(n_users)),
        user_codes=np.array(users, dtype=np.intp),
        item_ids=tuple(row.item_id for row in rows),
        item_codes=np.array(items, dtype=np.intp),
        times=np.array(times, dtype=np.int64),
    )
    profiles = {str(u): f"somebody who likes {tastes[u % len(tastes)].lower()} films" for u in range(n_users)}
    return catalog, log, profiles


def _item(index: int, taste: str) -> ItemRow:
    """Item `index`: within a taste the titles run through all word combinations before one comes again."""
    adjectives, things, places = TASTES[taste]
    number = index // len(TASTES)
    # Neighbours differ in all three words; 6 * 6 * 4 numbers give 144 titles.
    adjective = number % 6
    thing = (number + number // 6) % 6
    place = (number + number // 36) % 4
    title = f"The {adjectives[adjective]} {things[thing]} {places[place]}"
    return ItemRow(f"s{index:03d}", title, str(1950 + (7 * index) % 70), (taste,))
