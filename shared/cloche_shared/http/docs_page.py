"""The page at `/docs`: the OpenAPI document, shown by a few lines of script of our own.

No file comes from elsewhere, so it works without the internet and under `default-src 'self'`. All
text is set as text, never as HTML.
"""

from dataclasses import dataclass
from typing import Final

POLICY: Final = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"


@dataclass(frozen=True, slots=True)
class Page:
    """A static document."""

    media_type: str
    body: bytes


def pages() -> dict[str, Page]:
    """Return the documents by path."""
    html = Page("text/html; charset=utf-8", _HTML.encode())
    return {
        "/docs": html,
        "/docs/errors": html,
        "/docs/page.js": Page("text/javascript; charset=utf-8", _SCRIPT.encode()),
        "/docs/page.css": Page("text/css; charset=utf-8", _STYLE.encode()),
    }


_HTML: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Cloche API</title>
<link rel="stylesheet" href="/docs/page.css">
<script src="/docs/page.js" defer></script>
<body>
<header><h1>Cloche <small id="version"></small></h1>
<input id="filter" type="search" placeholder="Filter by path, name or tag" aria-label="Filter">
<a href="/openapi.json">openapi.json</a></header>
<main id="main"><p>Reading the document…</p></main>
<noscript>This page needs JavaScript; the same is in /openapi.json.</noscript>
</body>
</html>
"""

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --get: #2779c4; --post: #2c8a4b; --put: #a86a12;
  --patch: #a86a12; --delete: #c0392b; }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; }
header { position: sticky; top: 0; display: flex; gap: 1rem; align-items: center; padding: .6rem 1.2rem;
  background: Canvas; border-bottom: 1px solid var(--line); }
h1 { font-size: 1.1rem; margin: 0; } h1 small { font-weight: normal; opacity: .6; }
input { flex: 1; max-width: 30rem; font: inherit; padding: .3rem .6rem; border-radius: 6px;
  border: 1px solid var(--line); }
main { max-width: 62rem; margin: 0 auto; padding: 1rem 1.2rem 4rem; }
h2 { margin: 1.6rem 0 .4rem; font-size: 1.05rem; text-transform: capitalize; }
details { border: 1px solid var(--line); border-radius: 8px; margin: .4rem 0; }
summary { display: flex; gap: .8rem; padding: .45rem .8rem; cursor: pointer; align-items: baseline; flex-wrap: wrap; }
summary::marker { content: ""; }
.verb { font: 600 .75rem/1.6 ui-monospace, monospace; width: 4.6rem; text-align: center; color: #fff;
  border-radius: 4px; }
.get { background: var(--get); } .post { background: var(--post); } .put { background: var(--put); }
.patch { background: var(--patch); } .delete { background: var(--delete); }
code, pre { font: 13px/1.5 ui-monospace, monospace; }
.what { opacity: .7; }
.inside { padding: .2rem .9rem .9rem; border-top: 1px solid var(--line); }
h3 { font-size: .85rem; margin: .9rem 0 .3rem; opacity: .7; }
table { border-collapse: collapse; width: 100%; } td { padding: .2rem .6rem .2rem 0; vertical-align: top;
  border-bottom: 1px solid var(--soft); } td:first-child { white-space: nowrap; font-family: ui-monospace, monospace; }
pre { background: var(--soft); padding: .6rem .8rem; border-radius: 6px; overflow: auto; margin: .2rem 0; }
"""

_SCRIPT: Final = """"use strict";
const make = (tag, cls, ...inner) => {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  node.append(...inner.filter((one) => one !== null && one !== undefined));
  return node;
};
const verbs = ["get", "post", "put", "patch", "delete"];
let whole = {};
const resolve = (schema) => {
  if (!schema || !schema.$ref) return schema || {};
  return schema.$ref.split("/").slice(1).reduce((at, part) => (at || {})[part], whole) || {};
};
const shape = (given, depth = 0) => {
  const schema = resolve(given);
  if (depth > 6) return "…";
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  const several = schema.anyOf || schema.oneOf;
  if (several) return several.map((one) => shape(one, depth)).join(" | ");
  const pad = "  ".repeat(depth + 1);
  if (schema.properties) {
    const need = new Set(schema.required || []);
    const lines = Object.entries(schema.properties).map(
      ([name, inner]) => `${pad}${name}${need.has(name) ? "" : "?"}: ${shape(inner, depth + 1)}`);
    return `{\\n${lines.join(",\\n")}\\n${"  ".repeat(depth)}}`;
  }
  if (schema.type === "array") return `[${shape(schema.items, depth)}]`;
  if (schema.type === "object" && schema.additionalProperties && schema.additionalProperties !== true)
    return `{ [name]: ${shape(schema.additionalProperties, depth)} }`;
  return schema.type || "any";
};
const table = (rows) => make("table", "", ...rows.map(
  (cells) => make("tr", "", ...cells.map((cell) => make("td", "", cell)))));
const parameters = (list) => table(list.map((one) => [
  one.name + (one.required ? " *" : ""), one.in, shape(one.schema), one.description || ""]));
const content = (given) => Object.entries(given || {}).map(
  ([type, one]) => make("div", "", make("code", "", type), make("pre", "", shape(one.schema))));
const inside = (operation) => {
  const box = make("div", "inside");
  if (operation.description) box.append(make("p", "", operation.description));
  if ((operation.parameters || []).length) box.append(make("h3", "", "Parameters"), parameters(operation.parameters));
  if (operation.requestBody) box.append(make("h3", "", "Body"), ...content(operation.requestBody.content));
  const answers = Object.entries(operation.responses || {});
  box.append(make("h3", "", "Answers"), table(answers.map(([status, one]) => [status, one.description || ""])));
  for (const [status, one] of answers.filter(([status]) => status < "300")) {
    box.append(make("h3", "", `${status}`), ...content(one.content));
  }
  return box;
};
const entry = (verb, path, operation) => {
  const head = make("summary", "", make("span", `verb ${verb}`, verb.toUpperCase()), make("code", "", path),
    make("span", "what", operation.summary || ""));
  const node = make("details", "", head);
  node.dataset.text = `${verb} ${path} ${operation.summary || ""} ${(operation.tags || []).join(" ")}`.toLowerCase();
  node.addEventListener("toggle", () => {
    if (node.open && node.childElementCount === 1) node.append(inside(operation));
  });
  return node;
};
const show = () => {
  const groups = new Map();
  for (const [path, item] of Object.entries(whole.paths || {}))
    for (const verb of verbs.filter((one) => item[one])) {
      const tag = (item[verb].tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, make("section", "", make("h2", "", tag)));
      groups.get(tag).append(entry(verb, path, item[verb]));
    }
  document.getElementById("main").replaceChildren(...groups.values());
};
const filter = (event) => {
  const text = event.target.value.toLowerCase();
  for (const section of document.querySelectorAll("section")) {
    let any = false;
    for (const node of section.querySelectorAll("details")) {
      node.hidden = !node.dataset.text.includes(text);
      any = any || !node.hidden;
    }
    section.hidden = !any;
  }
};
fetch("/openapi.json").then((answer) => answer.json()).then((document_) => {
  whole = document_;
  document.getElementById("version").textContent = (whole.info || {}).version || "";
  document.getElementById("filter").addEventListener("input", filter);
  show();
}).catch(() => document.getElementById("main").replaceChildren(make("p", "", "The document could not be read.")));
"""
