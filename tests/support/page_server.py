"""A stand-in for the service beneath the page: its static files and canned answers. It computes and checks nothing."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = Path(__file__).parents[2] / "server" / "serving" / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Stricter than needed, so that whatever the page does under it, it does anywhere; with Trusted Types, markup that is
# made from a string is an error in the console.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
INJECTED = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
FILMS = (
    ("Heat", 1995, ("Action", "Crime", "Thriller")),
    ("Heathers", 1989, ("Comedy",)),
    ("Heavenly Creatures", 1994, ("Drama", "Fantasy", "Thriller")),
    ("Twelve Monkeys", 1995, ("Drama", "Sci-Fi")),
    ("Fargo", 1996, ("Crime", "Drama", "Thriller")),
    ("Bottle Rocket", 1996, ("Comedy",)),
    ("Fish Called Wanda, A", 1988, ("Comedy",)),
    ("Sneakers", 1992, ("Crime", "Drama", "Sci-Fi")),
    ("Palookaville", 1996, ("Action", "Drama")),
    ("Sting, The", 1973, ("Comedy", "Crime")),
    (INJECTED, 1997, ("Comedy",)),
    ("Delicatessen", 1991, ("Comedy", "Sci-Fi")),
)


@dataclass
class Canned:
    """What the stand-in answers with, and what it was asked.

    Attributes:
        token: that requests must bear; "" for none.
        runs: answers to /v1/runs/{name}, by name.
        federations: of /v1/federations; None as where the server was started without any.
        asked: bodies of /v1/recommend, oldest first.
    """

    token: str = ""
    items: list[dict[str, Any]] = field(default_factory=lambda: films())
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    federations: list[dict[str, Any]] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> Any:
        """JSON of one path; None for 404."""
        if path == "/v1/recommend":
            return self._recommend(body)
        if path == "/v1/items":
            text, limit = query["search"][0].lower(), int(query["limit"][0])
            return {"items": [item for item in self.items if text in item["title"].lower()][:limit]}
        if path == "/v1/runs":
            return {"runs": [summary(run) for run in self.runs.values()]}
        if path.startswith("/v1/runs/"):
            return self.runs.get(unquote(path.removeprefix("/v1/runs/")))
        if path == "/v1/federations" and self.federations is not None:
            return {"federations": self.federations}
        return {"privacy": {"mechanism": "none", "trust": "NO PRIVACY"}} if path == "/v1/bundle" else None

    def _recommend(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(body)
        left = [item for item in self.items if item["item_id"] not in body["history"]]
        left = left[::-1] if body["discovery"] > 0.5 else left
        titles = {item["item_id"]: item["title"] for item in self.items}
        reasons = [f"because of {titles[item]}" for item in body["history"]]
        reasons += [f"matches: {body['query']}"] if body["query"] else []
        reasons += [f"your interest in {like}" for like in body["interests"]["likes"]]
        shown = [
            {"rank": rank, **item, "score": 1 / rank, "reasons": reasons or ["popular"]}
            for rank, item in enumerate(left[: body["n"]], 1)
        ]
        bundle = {"experiment": "canned", "sha256": "ab" * 32, "privacy": privacy("record", 7.99)}
        understood = "comedy, 1990 to 1999" if "90s" in body["query"] else ""
        return {"items": shown, "understood": understood, "note": "", "bundle": bundle}


def films() -> list[dict[str, Any]]:
    """The catalogue; one title is markup and script."""
    return [
        {"item_id": str(number), "title": title, "year": year, "genres": list(genres)}
        for number, (title, year, genres) in enumerate(FILMS, 1)
    ]


def summary(run: dict[str, Any]) -> dict[str, Any]:
    """The line of a run in the list."""
    last = run["rounds"][-1] if run["rounds"] else {}
    known = {"round": last.get("round"), "rounds": last.get("rounds"), "epsilon": last.get("epsilon")}
    return {"name": run["name"], "state": run["state"], "unit": run["unit"], **known}


def privacy(unit: str | None, epsilon: float | None) -> dict[str, Any]:
    """The privacy section of results.json; without a unit, of a run without privacy."""
    if unit is None:
        trust = "NO PRIVACY: updates leave the clients in the clear; for research only"
        return {"mechanism": "none", "unit": None, "relation": None, "epsilon": None, "delta": None, "trust": trust}
    per_record = {"user_epsilon": 48.18, "interaction_epsilon": 18.82} if unit == "record" else {}
    return {
        "mechanism": "gaussian",
        "unit": unit,
        "relation": "add_remove",
        "epsilon": epsilon,
        "delta": 1e-05,
        "target_epsilon": 8.0,
        "max_records": 4,
        "trust": "the server, the other clients and everyone after them",
        "assumptions": ["the device adds the noise itself, at full strength"],
        "not_covered": ["hyper-parameters chosen by looking at private data", "whether and when a client takes part"],
        "accountant": "hushrec 0.1.0 RDP",
        "noise_added_by": "device",
        "notes": [],
        **per_record,
    }


def run(
    name: str, *, level: float = 0.06, unit: str | None = "record", epsilon: float | None = 7.99, done: int = 20
) -> dict[str, Any]:
    """One run as /v1/runs/{name} answers; finished where `done` is 20."""
    claim = privacy(unit, epsilon)
    lines = [
        {
            "round": number,
            "rounds": 20,
            "asked": 300,
            "answered": 298,
            "refused": {"BUDGET_EXHAUSTED": 2} if number == done else {},
            "seconds": 1.5,
            "epsilon": None if epsilon is None else round(epsilon * math.sqrt(number / 20), 4),
            **({"validation_NDCG@10": round(level * (0.6 + 0.02 * number), 5)} if number % 5 == 0 else {}),
        }
        for number in range(done + 1)
    ]
    clients = [{"client": f"device-{k}", "epsilon": (epsilon or 0) * (60 - k) / 60, "budget": 8.0} for k in range(60)]
    ledger = None if unit is None else {"clients": clients}
    finished = done == 20
    found = results(name, level, claim) if finished else None
    state = "finished" if finished else "running"
    facts = {"name": name, "state": state, "unit": unit, "results": found}
    return {**facts, "rounds": lines, "audit": None, "ledger": ledger}


def results(name: str, level: float, claim: dict[str, Any]) -> dict[str, Any]:
    """results.json in its shape, with figures around `level`."""
    levels = {"random": 0.002, "popularity": 0.03, "ease": 0.07, "frozen_lm": 0.9 * level, "hushrec": level}
    return {
        "experiment": name,
        "dataset": {"name": "movielens-100k", "users": 943, "items": 1682, "interactions": 100000},
        "protocol": "joint",
        "seed": 0,
        "systems": {system: figures(mean) for system, mean in levels.items()},
        "privacy": claim,
        "config": {"server.learning-rate": level / 10, "federation.rounds": 20},
    }


def figures(mean: float) -> dict[str, Any]:
    """One system's entry."""
    one = {"mean": mean, "low": 0.8 * mean, "high": 1.2 * mean}
    deciles = {str(k): {"HR@10": {name: value / k for name, value in one.items()}, "users": 100} for k in range(1, 11)}
    warm = {"HR@10": one, "NDCG@10": one}
    return {"warm": warm, "cold_items": {"NDCG@20": one}, "coverage@10": one, "deciles": deciles}


def audit() -> dict[str, Any]:
    """audit.json in its shape, with the list of the attack."""
    check = {"name": "budget", "verdict": "holds", "claim": "No client passes its budget.", "measured": "7.99 of 8"}
    seen = [
        {"title": title, "watched": k % 2 == 0, "rank_without_privacy": k + 1, "rank_with_privacy": 40 + 7 * k}
        for k, (title, _, _) in enumerate(FILMS)
    ]
    curve = [[k / 10, min(1.0, k / 8)] for k in range(11)]
    summed = "every claim holds in 1 of 1 checks"
    attack = {"films": seen, "curves": {"films, the run's noise": curve}}
    return {"summary": summed, "violated": [], "checks": [check], "attack": attack}


class _Handler(BaseHTTPRequestHandler):
    canned: Canned

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path.startswith("/v1/"):
            self._json(parts.path, parse_qs(parts.query), {})
            return
        file = PAGE / (parts.path.lstrip("/") or "index.html")
        if file.parent == PAGE and file.is_file():
            self._send(200, TYPES[file.suffix], file.read_bytes())
        else:
            self._send(404, "text/plain", b"not found")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._json(urlsplit(self.path).path, {}, body)

    def _json(self, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> None:
        token = self.canned.token
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            self._send(401, "application/json", b'{"detail": "this needs a token"}')
            return
        found = self.canned.answer(path, query, body)
        status, shown = (404, {"detail": "not found"}) if found is None else (200, found)
        self._send(status, "application/json", json.dumps(shown).encode())

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(content))),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def page_server(canned: Canned) -> Iterator[str]:
    """Serve on a free port of loopback while the block runs; yields the address."""
    handler = type("Handler", (_Handler,), {"canned": canned})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
