"""The model card, the studio, the container and the compose file: what they name is there and runs."""

import ast
import re
import shlex
import shutil

import pytest
import soundfile
from conftest import ROOT

from modelscope_zipenhancer import cli
from modelscope_zipenhancer.audio.policy import SERVED
from modelscope_zipenhancer.names import TASK

CARD = (ROOT / "docs" / "model_card.md").read_text(encoding="utf-8")
STUDIO = ROOT / "examples" / "studio"


def front_matter(text: str) -> dict:
    return pytest.importorskip("yaml").safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])


@pytest.fixture
def upload(tmp_path, monkeypatch):
    """The folder that docs/deployment.md says to upload, made by its commands; the current one."""
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    commands = re.search(r"```bash\n(mkdir -p upload.*?)modelscope upload", text, re.DOTALL)[1]
    for line in commands.strip().splitlines():
        name, *words = shlex.split(line)
        if name == "mkdir":
            (tmp_path / words[-1]).mkdir(parents=True)
        else:
            assert name == "cp"
            target = tmp_path / words[-1]
            for word in words[:-1]:
                for source in ROOT.glob(word):
                    shutil.copy(source, target)
    monkeypatch.chdir(tmp_path / "upload")
    return tmp_path / "upload"


def test_the_card_says_what_the_hub_asks(upload):
    card = front_matter((upload / "README.md").read_text(encoding="utf-8"))
    assert card["tasks"] == [TASK] and card["license"] == "Apache License 2.0"
    (widget,) = card["widgets"]
    assert widget["task"] == TASK and widget["inferencespec"]["memory"] == 1000
    assert widget["inputs"][0]["validator"]["max_size"] == f"{SERVED.max_bytes >> 20}M"
    for example in widget["examples"]:
        (given,) = example["inputs"]
        assert (upload / given["data"].removeprefix("git://")).exists()
    assert {"configuration.json", "pytorch_model.bin", "model.onnx"} <= {
        path.name for path in upload.iterdir()
    }


def test_the_card_has_the_figures_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ dB .*$", CARD, re.MULTILINE)
    assert len(rows) == 4 and all(row in readme for row in rows)


def test_the_card_s_code_runs_on_the_folder(upload):
    pytest.importorskip("onnxruntime")
    blocks = re.findall(r"```python\n(.*?)```", CARD, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block.replace("OWNER/NAME", str(upload)), "model_card.md", "exec"), {})
    frames = soundfile.info("examples/noisy_speech.wav").frames
    assert soundfile.info("output.wav").frames == frames and soundfile.info("clean.wav").frames == 6 * 16000


def test_the_studio_starts_the_page(monkeypatch):
    card = front_matter((STUDIO / "README.md").read_text(encoding="utf-8"))
    entry = (STUDIO / card["deployspec"]["entry_file"]).read_text(encoding="utf-8")
    started = []
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setattr(cli, "main", lambda arguments: started.append(arguments) or 0)
    with pytest.raises(SystemExit) as ended:
        exec(compile(ast.parse(entry), "app.py", "exec"), {"__name__": "__main__"})
    assert ended.value.code == 0 and started == [["demo"]]


def test_the_container_and_the_compose_file_name_what_there_is():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in shlex.split(sources))
    extras = re.search(r"\.whl\)\[(.*?)\]", text)[1].split(",")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras)
    compose = pytest.importorskip("yaml").safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    commands = [service["command"] for service in compose["services"].values()]
    commands.append(ast.literal_eval(re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)[1]))
    for name, *arguments in commands:
        assert name == "zipenhancer"
        if arguments[0] not in cli.COMMANDS:
            pytest.skip(f"there is no `zipenhancer {arguments[0]}` yet")
        assert cli.make_parser(arguments).parse_args(arguments).host == "0.0.0.0"
