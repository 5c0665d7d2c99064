"""Train a classifier of wines and keep it as a model file."""

import argparse
import os

import joblib
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, confusion_matrix
from sklearn.model_selection import train_test_split

from cloche.core import Run

parser = argparse.ArgumentParser()
parser.add_argument("--trees", type=int, default=60)
arguments = parser.parse_args()

run = Run.get_context()
wines = load_wine()
train_x, test_x, train_y, test_y = train_test_split(wines.data, wines.target, test_size=0.3, random_state=7)
print(f"{len(train_x)} wines to learn from, {len(test_x)} to be tested on")

forest = RandomForestClassifier(n_estimators=arguments.trees, random_state=7)
forest.fit(train_x, train_y)
accuracy = accuracy_score(test_y, forest.predict(test_x))

run.log("trees", arguments.trees)
run.log("accuracy", accuracy)
for row in confusion_matrix(test_y, forest.predict(test_x)).tolist():
    run.log_row("confusion", **dict(zip(wines.target_names.tolist(), row)))
print(f"accuracy {accuracy:.3f}")

os.makedirs("outputs", exist_ok=True)
joblib.dump(forest, "outputs/model.pkl")
print("wrote outputs/model.pkl")
