"""Serve the classifier that train.py made."""

import json
import os

import joblib

NAMES = ["barolo", "grignolino", "barbera"]


def init():
    global forest
    forest = joblib.load(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model.pkl"))


def run(data):
    rows = json.loads(data)["data"]
    return {"wines": [NAMES[kind] for kind in forest.predict(rows)]}
