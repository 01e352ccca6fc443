from pathlib import Path

import pytest

from tas_lib import config
from tas_lib.config import System

WHOLE = """
source: {kind: docs, packages: [numpy]}
evaluation:
  sets: [{name: dev, label: Dev}]
systems:
  "1": {teacher: none, sampling: random}
  "2": {teacher: pairwise, sampling: random}
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Load a profile from a text."""
    monkeypatch.setenv("TAS_PROFILES", str(tmp_path))

    def from_text(text: str | bytes) -> config.Profile:
        (tmp_path / "mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return config.load("mine")

    return from_text


def refused(load, text: str | bytes) -> str:
    with pytest.raises(ValueError) as error:
        load(text)
    message = str(error.value)
    assert message.startswith("mine.yaml") and "\n" not in message
    return message


def test_the_profiles_of_the_project_are_valid():
    for path in (config.ROOT / "profiles").glob("*.yaml"):
        assert config.load(path.stem).name == path.stem


def test_what_a_profile_leaves_out_is_the_papers(load):
    settings = load(WHOLE)
    assert settings.name == "mine"
    assert settings.tokens.model_dump() == {"query": 30, "passage": 200}
    sampling = {"batch_size": 32, "clusters": 2000, "clusters_per_batch": 1, "margin_bins": 10}
    training = {"alpha": 0.75, "learning_rate": 7e-6, "patience": 30, "validate_every": 4000}
    assert sampling.items() <= settings.sampling.model_dump().items()
    assert training.items() <= settings.training.model_dump().items()
    assert settings.evaluation.depth == 1000


def test_an_unknown_profile_is_refused_with_the_known_ones(load):
    load(WHOLE)
    with pytest.raises(ValueError) as error:
        config.load("docz")
    assert str(error.value) == "there is no profile 'docz'; there are: mine"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("training: {alpha: -1}", "training.alpha: Input should be greater than or equal to 0 (got -1)"),
        ("sampling: {clusters: 2, clusters_per_batch: 3}", "3 clusters per batch, but there are only 2"),
    ],
)
def test_a_value_out_of_range_is_one_sentence(load, more: str, message: str):
    assert message in refused(load, f"{WHOLE}{more}\n")
    assert "must hold `key: value` lines, not ['a list']" in refused(load, "- a list")


def test_two_mistakes_are_reported_together(load):
    message = refused(load, f"{WHOLE}training: {{alpha: -1, steps: 0}}\n")
    assert "training.alpha" in message and "training.steps" in message


def test_two_equal_systems_are_refused(load):
    message = refused(load, f'{WHOLE}  "3": {{teacher: pairwise, sampling: random, batch_size: 32}}\n')
    assert "two systems are the same, 2 and 3: pairwise-random" in message


VARIED = WHOLE.replace("systems:", "variants: {more: {sampling: {clusters: 7}}}\nsystems:")


def test_a_variant_changes_the_settings_of_its_systems_only(load):
    settings = load(VARIED + '  "3": {variant: more}\n')
    sampling = [settings.of(system).sampling for system in settings.systems.values()]
    assert [section.clusters for section in sampling] == [2000, 2000, 7]
    assert sampling[2].model_copy(update={"clusters": 2000}) == sampling[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{sampling: {clusters: 0}}", "system 3: clusters: Input should be greater than 0 (got 0)"),
        ("{tokens: {query: 7}}", "variants.more.tokens: Extra inputs are not permitted"),
    ],
)
def test_an_invalid_variant_is_one_sentence(load, change: str, message: str):
    varied = VARIED.replace("{sampling: {clusters: 7}}", change)
    assert message in refused(load, varied + '  "3": {variant: more}\n')


def test_a_system_of_an_unknown_variant_is_refused_with_the_known_ones(load):
    assert "system 3: there is no variant 'mor'; there are: more" in refused(load, VARIED + '  "3": {variant: mor}\n')
    load(VARIED)
    with pytest.raises(ValueError, match="notebook parameters: there is no variant 'mor'; there are: more"):
        config.system("mine", **PARAMETERS, variant="mor")


def test_systems_that_differ_have_names_that_differ(load):
    systems = [
        System(variant="more"),
        System(),
        System(seed=2),
        System(batch_size=96),
        System(loss="margin_mse_as_printed"),
        System(teacher="pairwise"),
        System(sampling="tas"),
        System(kind="bm25"),
        System(kind="checkpoint", source="someone/one-model"),
        System(kind="checkpoint", source="someone/another-model"),
        System(kind="run", source="runs/a/{set}.gz"),
        System(kind="run", source="runs/b/{set}.gz"),
    ]
    names = [system.name for system in systems]
    assert len(set(names)) == len(names)
    assert System(kind="checkpoint", source="someone/one", pooling="mean").name == "checkpoint-someone-one-mean"
    assert System(kind="bm25").name == "bm25"
    assert all("/" not in name and "{" not in name for name in names)


PARAMETERS = {"seed": 1, "teacher": "dual", "sampling": "tas", "loss": "margin_mse", "batch_size": 32}


def test_a_notebooks_parameters_name_profile_and_system(load):
    load(WHOLE)
    settings, system = config.system("mine", **PARAMETERS)
    assert settings.name == "mine"
    assert system == System(teacher="dual", sampling="tas")


def test_a_wrong_parameter_of_a_notebook_is_one_sentence(load):
    load(WHOLE)
    with pytest.raises(ValueError) as error:
        config.system("mine", **PARAMETERS | {"batch_size": 0})
    assert str(error.value) == "notebook parameters: batch_size: Input should be greater than 0 (got 0)"


def test_environment_variables_move_the_folders(load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    settings = load(WHOLE)
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TAS_FIGURES", str(tmp_path / "figures"))
    assert settings.folder == tmp_path / "runs" / "mine"
    assert settings.figures == tmp_path / "figures" / "mine"


def test_an_encoder_is_a_folder_of_the_project_any_folder_or_a_hub_name(load, tmp_path: Path):
    settings = load(WHOLE)
    expected = {str(tmp_path): str(tmp_path), "tests": str(config.ROOT / "tests"), "someone/model": "someone/model"}
    for encoder, path in expected.items():
        assert settings.model_copy(update={"encoder": encoder}).encoder_path == path


# --- fused and re-ranked systems ---------------------------------------------------------------------------------

PIPELINES = """
  "bm25+2": {kind: fused, of: [bm25, "2"]}
  "bm25+2>cat": {kind: reranked, first: "bm25+2", by: cat}
  "2>mono": {kind: reranked, first: "2", by: mono}
  "2>mono>duo": {kind: reranked, first: "2>mono", by: duo}
  "2>duo": {kind: reranked, first: "2", by: duo, depth: 10}
"""


def test_pipelines_build_on_other_rows_and_are_named_after_them(load):
    settings = load(WHOLE + PIPELINES.lstrip("\n"))
    assert settings.systems["bm25+2"].name == "fused-interpolate-bm25-2"
    assert settings.systems["bm25+2>cat"].name == "reranked-cat-bm25-2"
    assert settings.systems["2>duo"].name == "reranked-duo10-2"
    depths = [settings.candidates(settings.systems[key]) for key in ("bm25+2>cat", "2>mono", "2>mono>duo", "2>duo")]
    assert depths == [1000, 1000, 50, 10]  # the paper's


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('"x": {kind: fused, of: [bm25, "9"]}', "system x: no system '9' is listed above it to build on"),
        ('"x": {kind: reranked, first: x}', "system x: no system 'x' is listed above it to build on"),
        ('"x": {kind: fused, of: [bm25]}', "`of` names two or more different systems"),
        ('"x": {kind: fused, of: ["2", "2"]}', "`of` names two or more different systems"),
        ('"x": {kind: fused, of: [bm25, "1", "2"]}', "interpolation is of two systems; rrf takes more"),
        ('"x": {kind: fused}', "a system of kind 'fused' needs `of`"),
        ('"x": {of: [bm25, "2"]}', "`of` is for kind fused, and this system's is 'trained'"),
        ('"x": {first: bm25}', "`first` is for kind reranked, and this system's is 'trained'"),
        ('"x": {pooling: cls}', "`pooling` is for kind checkpoint, and this system's is 'trained'"),
        ('"x": {kind: checkpoint}', "a system of kind 'checkpoint' needs `source`"),
        ('"x": {kind: reranked, first: bm25, by: t5}', "'cat', 'mono' or 'duo'"),
        ('y: {kind: reranked, first: bm25}\n  "x": {kind: fused, of: [bm25, y]}', "y is made of other runs"),
    ],
)
def test_a_system_that_cannot_be_is_refused(load, line, message):
    assert message in refused(load, f"{WHOLE}  {line}\n")


# --- what depends on which setting -------------------------------------------------------------------------------


def test_a_training_depends_on_its_own_settings_and_not_on_execution(load):
    profile, dual, random = load(WHOLE), System(), System(teacher="pairwise", sampling="random")

    def differs(system: System, **changes: dict[str, object]) -> bool:
        sections = {name: config.changed(getattr(profile, name), values) for name, values in changes.items()}
        return profile.model_copy(update=sections).decisive(system) != profile.decisive(system)

    assert not differs(dual, training={"workers": 3, "chunk": 4, "cached_chunk": 8, "compile": True})
    assert differs(dual, training={"learning_rate": 1.0}) and differs(random, tokens={"query": 8})
    assert differs(dual, sampling={"margin_bins": 5}) and not differs(
        random, sampling={"margin_bins": 5, "clusters": 3}
    )
    assert differs(dual, training={"alpha": 2.0}) and not differs(random, training={"alpha": 2.0})
    assert differs(System(loss="listnet"), training={"list_weights": {"listnet": 3.0}})
    assert not differs(dual, training={"list_weights": {"listnet": 3.0}})
