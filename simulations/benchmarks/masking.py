"""How much of planted personal data the masks of free text find, how many public titles they harm, and what that costs.

    python simulations/benchmarks/masking.py [--texts 300] [--seed 0]

Prints one object as JSON: "found", kind -> share masked with its 95 % interval (Wilson); "titles_changed", share of the
catalogue's titles in which something is masked although nobody's data are in them; "cosine", of a sentence's vector
with and without planted data, once left in and once masked. Kinds that no pattern is made for stand beside the others.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable

import numpy as np

from hushrec.common.identity import mask_text
from hushrec.common.settings import DataConfig, ModelConfig
from hushrec.common.workspace import build_text_model, open_dataset

Draw = Callable[[np.random.Generator], str]
FIRST = ("maria", "john", "li", "amina", "björn", "o.neill")
LAST = ("smith", "garcia", "nguyen", "van.dyk", "kaya", "jones")
HOSTS = ("example.org", "mail.example.co.uk", "example.museum")
STREETS = ("Baker Street", "Fifth Avenue", "Mill Lane", "Elm Road")
FRAMES = ("I loved {title}, write to me: {data}", "{data} is mine. More like {title} please", "{title}! ({data})")


def digits(rng: np.random.Generator, pattern: str) -> str:
    """The pattern with a random digit for every #."""
    return "".join(str(rng.integers(10)) if sign == "#" else sign for sign in pattern)


def card(rng: np.random.Generator) -> str:
    """Sixteen digits in fours whose last makes the Luhn sum right."""
    numbers = [4, *rng.integers(0, 10, 14).tolist()]
    doubled = [sum(divmod(2 * n, 10)) if place % 2 == 0 else n for place, n in enumerate(numbers)]
    text = "".join(map(str, [*numbers, -sum(doubled) % 10]))
    return " ".join(text[start : start + 4] for start in range(0, 16, 4))


def one_of(*patterns: str) -> Draw:
    """One of the patterns, with digits."""
    return lambda rng: digits(rng, patterns[int(rng.integers(len(patterns)))])


def email(rng: np.random.Generator) -> str:
    """An address as most people write theirs."""
    return f"{rng.choice(FIRST)}.{rng.choice(LAST)}{rng.integers(100)}@{rng.choice(HOSTS)}"


KINDS: dict[str, Draw] = {
    "e-mail": email,
    "e-mail, spelled out": lambda rng: email(rng).replace("@", " at ").replace(".", " dot "),
    "link": lambda rng: f"https://{rng.choice(HOSTS)}/u/{rng.choice(FIRST)}?id={rng.integers(10_000)}",
    "link without scheme": lambda rng: f"www.{rng.choice(HOSTS)}/{rng.choice(LAST)}",
    "handle": lambda rng: f"@{rng.choice(LAST).replace('.', '_')}{rng.integers(1000)}",
    "phone": one_of(
        "+44 20 7### ####", "(2##) 555-01##", "2##.555.01##", "+1-202-555-01##", "030/#######", "07### ######"
    ),
    "card number": card,
    "IBAN": one_of("DE## #### #### #### #### ##", "GB##WEST############"),
    "street and number": lambda rng: f"{rng.integers(1, 200)} {rng.choice(STREETS)}",
    "name of a person": lambda rng: f"{rng.choice(FIRST).title()} {rng.choice(LAST).title()}",
    "post box": one_of("P.O. Box ####"),
}


def wilson(found: int, tried: int) -> dict[str, float]:
    """A share and its 95 % interval. Source: Wilson 1927, JASA 22(158)."""
    z, share = 1.959964, found / tried
    middle = (share + z * z / (2 * tried)) / (1 + z * z / tried)
    half = z / (1 + z * z / tried) * math.sqrt(share * (1 - share) / tried + z * z / (4 * tried * tried))
    return {
        "mean": round(share, 4),
        "low": round(max(0.0, middle - half), 4),
        "high": round(min(1.0, middle + half), 4),
    }


def main() -> None:
    """Print the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=300, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    catalog = open_dataset(DataConfig()).catalog
    titles = catalog.titles
    rng = np.random.default_rng(asked.seed)
    model, found, cosines = build_text_model(ModelConfig(), catalog), {}, {}
    for kind, draw in KINDS.items():
        hidden, vectors = 0, []
        for number in range(asked.texts):
            data, title = draw(rng), titles[int(rng.integers(len(titles)))]
            frame = FRAMES[number % len(FRAMES)]
            text = frame.format(title=title, data=data)
            masked = mask_text(text)
            hidden += data not in masked and not any(part in masked for part in data.split() if len(part) > 3)
            if number < 30:
                vectors.append([frame.format(title=title, data=""), text, masked])
        found[kind] = wilson(hidden, asked.texts)
        encoded = model.encode_texts([text for three in vectors for text in three]).numpy().reshape(len(vectors), 3, -1)
        encoded /= np.linalg.norm(encoded, axis=2, keepdims=True)
        near = np.einsum("nd,nkd->nk", encoded[:, 0], encoded[:, 1:]).mean(axis=0)
        cosines[kind] = {"left in": round(float(near[0]), 3), "masked": round(float(near[1]), 3)}
    changed = sum(mask_text(title) != " ".join(title.split()) for title in titles)
    print(json.dumps({"found": found, "titles_changed": wilson(changed, len(titles)), "cosine": cosines}, indent=1))


if __name__ == "__main__":
    main()
