"""Exercises, their solutions, and the two editions of the notebooks."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch

from tools import editions, notebooks

SOURCES = sorted((notebooks.FOLDER / "src").glob("*.py"))
WRONG = {  # what a student might well write
    "my_ranking": lambda passages: sorted(passages, key=lambda p: (-passages[p], p)),
    "my_reciprocal_rank": lambda ranking, relevant, k: max(
        (1 / (i + 1) for i, p in enumerate(ranking) if p in relevant), default=0.0
    ),
    "my_alike": lambda a, b, threshold: len({*a.split()} & {*b.split()}) >= threshold * len({*a.split()}),
    "my_weight": lambda n, n_t: np.log(n / n_t),
    "my_late_interaction": lambda query, passage: (query @ passage.T).max(dim=0).values.sum(),
    "my_cat_ids": lambda query, passage: query + passage,
    "my_gradient": lambda student, margins: torch.zeros_like(student),
    "my_tempered_listnet": lambda s, t, temperature: -(t.softmax(1) * (s / temperature).log_softmax(1)).sum(1).mean(),
    "my_nearest": lambda vecs, centroid, n: np.argsort(-(vecs @ centroid))[:n],
    "my_topic": lambda members, b, rng: next(
        rng.choice(own, b, replace=False)
        for query in rng.permutation(np.concatenate([own for own in members if len(own) >= b]))
        for own in members
        if query in own
    ),
    "my_balanced_pair": lambda margins, h, rng: rng.integers(len(margins)),
    "my_repair": lambda members, b, rng: rng.choice(np.concatenate(members), b, replace=False),
    "my_dual": lambda pair, crossed, alpha: alpha * pair + crossed,
    "my_tail": max,
    "my_least_ms": lambda n, width, gb_s: n * width / gb_s * 1e-6,
    "my_first_share": lambda teacher, k: float(teacher.softmax(dim=1)[:, :k].sum(dim=1).mean()),
    "my_wins": lambda a, b: sum(a[q] >= b[q] for q in a) / len(a),
    "my_deviation": lambda values: float(np.std(values)),
    "my_fellows": lambda members, b: b - 1,
    "my_fusion": lambda dense, sparse, alpha: {p: dense.get(p, 0) + alpha * sparse.get(p, 0) for p in dense | sparse},
    "my_holm": lambda p_values: [min(1.0, len(p_values) * p) for p in p_values],
    "my_bound": lambda deviation: 2.776 * deviation,
    "my_number": lambda epoch, steps, i: epoch * i + steps,
}

each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def exercises(source: Path) -> list[str]:
    return [cell.source for cell in notebooks.read(source).cells if editions.is_exercise(cell)]


@cache
def imports(source: Path) -> dict[str, Any]:
    """What the notebook's imports define, all that an exercise may use."""
    code = "\n".join(cell.source for cell in notebooks.read(source).cells if cell.cell_type == "code")
    body = [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names: dict[str, Any] = {}
    exec(compile(ast.Module(body, []), source.name, "exec"), names)
    return names


@each_source
def test_a_stub_is_not_done_its_solution_is_right_and_a_typical_error_is_caught(source: Path, capsys):
    names, stubs = dict(imports(source)), exercises(source)
    assert stubs
    for stub in stubs:
        exec(stub, names)
        assert capsys.readouterr().out == "Not done yet\n"
        exec(editions.solved(stub), names)
        assert capsys.readouterr().out.startswith("Right")
        (name,) = {*editions.functions(stub)} & {*WRONG}
        given = re.search(rf"def {name}(\(.*\)):", stub)
        assert given
        with pytest.raises(AssertionError, match=f"{name} gives"):
            exec(stub.replace("# TODO", f"return wrong{given[1]}"), {**names, "wrong": WRONG[name]})


def test_every_exercise_has_one_solution_with_the_same_head_and_every_solution_an_exercise():
    text = editions.SOLUTIONS.read_text(encoding="utf-8").splitlines()
    heads = {name: text[at][:2] for name, at in editions.functions("\n".join(text)).items()}
    stubs = {}
    for stub in (stub for source in SOURCES for stub in exercises(source)):
        stubs |= {name: stub.splitlines()[at] for name, at in editions.functions(stub).items() if name in heads}
    assert stubs == heads and {*heads} == {*WRONG}


@each_source
def test_every_exercise_but_an_open_one_has_a_hint(source: Path):
    text = "\n".join(cell.source for cell in notebooks.read(source).cells if cell.cell_type == "markdown")
    text = text.split("## Exercises")[1].split("## Next")[0]
    items = re.split(r"^\*\*\d\.", text, flags=re.M)[1:]
    assert len(items) >= 2
    for item in items:
        assert item.count("\n<details><summary>Hint</summary>\n\n") == item.count("\n\n</details>")
        assert ("Hint" in item) != item.startswith(" Open."), item


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(editions, "EDITIONS", tmp_path_factory.mktemp("repository") / "editions")
        assert editions.main() == 0
        return editions.EDITIONS


@pytest.mark.parametrize("edition", ["students", "lecturers"])
def test_editions_are_valid_and_clean_and_their_links_lead_to_files(edition: str, made: Path):
    paths = sorted((made / edition).glob("*.ipynb"))
    assert [path.stem for path in paths] == [source.stem for source in SOURCES]
    for path in paths:
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        assert notebook.metadata == notebooks.METADATA and nbformat.from_dict(notebooks.clean(notebook)) == notebook
        for link in re.findall(r"\]\(([^):#]+)[)#]", "\n".join(cell.source for cell in notebook.cells)):
            if re.search(r"\.(md|ipynb|png|svg)$", link):
                up = notebooks.ROOT / link.removeprefix("../../") if link.startswith("../../") else path.parent / link
                assert up.is_file(), (path.name, link)


def test_students_see_no_output_that_they_are_asked_to_predict_and_no_solution(made: Path):
    found = {"cleared": 0, "kept": 0}
    for path in sorted((made / "students").glob("*.ipynb")):
        before = nbformat.read(notebooks.FOLDER / path.name, 4).cells
        asked = False
        for cell, old in zip(nbformat.read(path, 4).cells, before, strict=True):
            if cell.cell_type == "markdown":
                asked = "*Before you" in cell.source.replace("\n", " ") or "*Predict" in cell.source
            elif asked or editions.is_exercise(cell):
                assert not cell.outputs and cell.source == old.source
                found["cleared"] += 1
            else:
                found["kept"] += len(cell.outputs) == len(old.outputs) > 0
    assert found["cleared"] > 50


def test_lecturers_see_solutions_and_minutes(made: Path):
    for path in sorted((made / "lecturers").glob("*.ipynb")):
        cells = nbformat.read(path, 4).cells
        assert not [cell for cell in cells if editions.is_exercise(cell) and "# TODO" in cell.source]
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        assert len(re.findall(r"^## .*\n\n\*About \d+ min\*$", text, flags=re.M)) == len(re.findall("^## ", text, re.M))


def test_a_section_takes_as_long_as_its_words_cells_and_exercises():
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    exercise = code("", metadata={"tags": ["exercise"]})
    words = "word " * editions.WORDS_PER_MINUTE
    headings = text(f"# Title\n\n{words}\n\n## A\n\n{words * 3}*Before\nyou run:* what?\n\n## B")
    cells = [headings, exercise, code(""), code("")]
    assert editions.minutes(cells) == [4, 9]
