"""The command line: what it imports, what it says, and how it exits."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest

from flows import cli_jobs
from flows.cli import cli, run
from pipeline.config import IngestConfig
from pipeline.errors import ConfigError, ImageError
from pipeline.types import Failed

HEAVY = {
    "numpy",
    "torch",
    "monai",
    "prefect",
    "mlflow",
    "pandas",
    "pydantic",
    "rich",
    "matplotlib",
    "skimage",
    "scipy",
    "yaml",
}


def commands(group=cli, path=()):
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def stand_in(monkeypatch, module, **names):
    """Put a module of our own in the place of `module`, so that a command can be tested without the work."""
    fake = ModuleType(module)
    vars(fake).update(names)
    monkeypatch.setitem(sys.modules, module, fake)


def test_help_imports_nothing_heavy():
    """`maskline --help` has to answer at once, so nothing heavy may be imported on the way to it."""
    code = "import sys, flows.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "click" in loaded
    assert HEAVY.isdisjoint(loaded)


def test_every_command_of_the_contract_is_there_and_says_what_it_does():
    """The commands are those of the contract, and each one's help has a sentence and every option an explanation."""
    top = {path[0] for path, _ in commands()}
    assert top == {
        "demo",
        "ingest",
        "train",
        "segment",
        "evaluate",
        "score",
        "compare",
        "models",
        "data",
        "verify",
        "status",
        "serve",
        "doctor",
    }
    for path, command in commands():
        assert command.help, path
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, (path, option.name)


def example_lines():
    texts = [(cli.epilog, ())] + [(command.epilog, path) for path, command in commands() if command.epilog]
    for text, _ in texts:
        for line in text.splitlines():
            words = line.strip().partition("   ")[0]
            if words.startswith("maskline "):
                yield words


@pytest.mark.parametrize("line", sorted(set(example_lines())))
def test_every_example_in_the_help_is_a_command_line_that_parses(line):
    """Examples are copied: each names a command and options that exist."""
    import shlex

    command, words = cli, shlex.split(line)[1:]
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_parser(click.Context(command)).parse_args(words)


def test_enough_examples_are_found():
    """The test above has something to look at."""
    assert len(set(example_lines())) >= 15


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ImageError("a.png", "a truncated file", "a whole one", "export it again"), 1),
        (ConfigError("my.yaml", "epochs: -1", "a positive number", "correct it"), 2),
        (PermissionError(13, "Permission denied", "/root/x"), 1),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 0),
    ],
)
def test_an_error_becomes_an_exit_code_and_one_message(monkeypatch, capsys, error, code):
    """Foreseen errors show a message and what to do, never a traceback."""

    @click.command()
    def fails():
        raise error

    monkeypatch.setitem(cli.commands, "fails", fails)
    monkeypatch.setattr("flows.cli._silence_stdout", lambda: None)
    assert run(["fails"]) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if isinstance(error, ImageError):
        assert "a.png: got a truncated file, wanted a whole one" in said
        assert "what to do: export it again" in said
    if isinstance(error, PermissionError):
        assert "Permission denied: /root/x" in said


@pytest.mark.parametrize(
    ("words", "how"),
    [
        (["train", "nuclei", "--data", "masks", "--out", "x"], "the same command with --resume goes on"),
        (["--debug", "train", "nuclei", "--data", "masks", "--out", "x", "--resume"], "the same command goes on"),
        (["verify", "."], "the same command goes on"),
    ],
)
def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys, words, how):
    """A training that was begun is refused without --resume, so Ctrl-C (while tuning, say) does not advise that."""

    @click.command(context_settings={"ignore_unknown_options": True})
    @click.argument("rest", nargs=-1)
    def interrupted(rest):
        raise KeyboardInterrupt

    for name in ("train", "verify"):
        monkeypatch.setitem(cli.commands, name, interrupted)
    assert run(words) == 130
    assert how in capsys.readouterr().err


@pytest.mark.parametrize("error", [ImageError("a.png", "b", "c", "d"), PermissionError(13, "Permission denied", "/x")])
def test_debug_shows_the_traceback(monkeypatch, capsys, error):
    """With --debug the traceback comes too."""

    @click.command()
    def fails():
        raise error

    monkeypatch.setitem(cli.commands, "fails", fails)
    assert run(["--debug", "fails"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["nonsense"], ["segment"], ["segment", "/does/not/exist", "--out", "x"], ["train", "--epochs"]]
)
def test_wrong_usage_exits_2(words, capsys):
    """What click refuses is wrong usage."""
    assert run(words) == 2
    assert capsys.readouterr().err


def test_version(capsys):
    """--version names the program and its version."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("maskline 0.")


def summary(**more):
    values = {
        "done": 2,
        "skipped": 1,
        "failed": 0,
        "objects": 1204,
        "seconds": 8.0,
        "exit_code": 0,
        "run_url": "",
        "run_id": "",
        "failures": (),
    }
    return SimpleNamespace(**{**values, "out": Path("runs/plate7"), **more})


@pytest.fixture
def segmented(monkeypatch):
    """A stand-in for the job: it keeps the configs it was called with, and answers `answer`."""
    seen = SimpleNamespace(configs=[], tried=[], answer=summary())

    def segment_folder(config, watch):
        seen.configs.append(config)
        return seen.answer

    def plan_segmentation(config):
        seen.configs.append(config)
        return SimpleNamespace(lines=lambda: ["3 images to do"], refused=0, short_of_disk="")

    stand_in(
        monkeypatch,
        "pipeline.runs.segment_folder",
        segment_folder=segment_folder,
        plan_segmentation=plan_segmentation,
        try_model=lambda plan: seen.tried.append(plan),
    )
    return seen


@pytest.mark.parametrize("code", [0, 3, 4])
def test_segment_exits_as_the_run_ended(segmented, tmp_path, capsys, code):
    """0 all well, 3 some failed, 4 too many failed; the last lines say where to look."""
    segmented.answer = summary(
        exit_code=code,
        failed=int(code > 0),
        failures=(Failed("b.png", "read", "cut off", "export again"),) * (code > 0),
    )
    assert run(["segment", str(tmp_path), "--out", "runs/plate7"]) == code
    said = capsys.readouterr().out
    assert "2 done, 1 skipped" in said and "1,204 objects in 8 s" in said
    assert "runs/plate7/report.html" in said
    assert ("images.csv" in said) == (code > 0)
    assert ("failed    b.png: cut off; export again" in said) == (code > 0)


def test_class_maps_are_not_told_of_as_objects(segmented, tmp_path, capsys):
    """What was not counted is not called 0 objects."""
    segmented.answer = summary(objects=None)
    assert run(["segment", str(tmp_path), "--out", "out"]) == 0
    assert "0 failed; class maps in 8 s" in capsys.readouterr().out


def test_options_go_before_the_config_file(segmented, tmp_path):
    """A field said on the command line beats the YAML's; what is said nowhere is the default."""
    file = tmp_path / "plate.yaml"
    file.write_text("diameter: 20\nlimit: 5\ngeojson: true\n")
    assert (
        run(["segment", str(tmp_path), "--out", "o", "--config", str(file), "--limit", "7", "--include", "*.png"]) == 0
    )
    (config,) = segmented.configs
    assert (config.diameter, config.limit, config.geojson, config.include) == (20, 7, True, ("*.png",))
    assert (config.model, config.force, config.track) == ("shipped:nuclei", False, True)


def test_a_wrong_field_in_the_config_file_is_wrong_config(segmented, tmp_path, capsys):
    """An unknown field exits 2 and is named."""
    file = tmp_path / "plate.yaml"
    file.write_text("diametre: 20\n")
    assert run(["segment", str(tmp_path), "--out", "o", "--config", str(file)]) == 2
    assert "diametre" in capsys.readouterr().err
    assert not segmented.configs


def test_dry_run_plans_only(segmented, tmp_path, capsys):
    """--dry-run prints the plan, and tries the model."""
    assert run(["segment", str(tmp_path), "--out", "o", "--dry-run", "--no-track"]) == 0
    assert capsys.readouterr().out == "3 images to do\n"
    assert len(segmented.tried) == 1
    assert segmented.configs[0].track is False


def test_the_flow_runs_only_where_a_prefect_server_is_named(segmented, tmp_path, monkeypatch):
    """Without PREFECT_API_URL the function is called; with it, the flow."""
    by_flow = []
    stand_in(monkeypatch, "flows.segment", segment_config=lambda config: by_flow.append(config) or summary())
    assert run(["segment", str(tmp_path), "--out", "o"]) == 0
    assert (len(segmented.configs), len(by_flow)) == (1, 0)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert run(["segment", str(tmp_path), "--out", "o"]) == 0
    assert (len(segmented.configs), len(by_flow)) == (1, 1)


def test_scores_are_printed_for_a_person_and_for_a_program(monkeypatch, tmp_path, capsys):
    """--json prints everything under its stable name; else a table."""
    scores = {"overall": {"map": 0.5, "ap50": 0.75}, "failed": 0}
    names = {"score_folder": lambda *folders, **options: scores, "score_table": lambda scores: "map 0.5000"}
    stand_in(monkeypatch, "pipeline.runs.evaluate_model", **names)
    words = ["score", "--predicted", str(tmp_path), "--truth", str(tmp_path)]
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == scores
    assert run(words) == 0
    assert capsys.readouterr().out == "map 0.5000\n"


def test_a_file_that_cannot_be_scored_is_exit_code_3(monkeypatch, tmp_path):
    """The contract's 3: finished, some images failed. Split and folder reach the scoring as given."""
    asked = {}
    scores = {"overall": {"map": 0.5}, "failed": 1}
    names = {"score_folder": lambda *folders, **options: asked.update(options) or scores, "score_table": lambda s: ""}
    stand_in(monkeypatch, "pipeline.runs.evaluate_model", **names)
    words = ["score", "--predicted", str(tmp_path), "--truth", str(tmp_path), "--split", "val", "--out", "scores"]
    assert run(words) == 3
    assert (asked["split"], asked["out"], asked["bootstrap"]) == ("val", Path("scores"), 1000)


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 3)])
def test_verify_exits_3_when_something_is_wrong(monkeypatch, tmp_path, capsys, ok, code):
    """A damaged output is a failure a script can see."""
    answer = SimpleNamespace(ok=ok, lines=lambda: ["12 files checked"])
    stand_in(monkeypatch, "pipeline.runs.verify_folder", verify_folder=lambda folder, watch: answer)
    assert run(["verify", str(tmp_path)]) == code
    assert capsys.readouterr().out == "12 files checked\n"


def test_the_layouts_offered_are_those_of_the_config():
    """The choice on the command line and the one in the config do not drift apart."""
    assert set(cli_jobs.LAYOUTS.choices) == set(IngestConfig.model_fields["layout"].annotation.__args__)
