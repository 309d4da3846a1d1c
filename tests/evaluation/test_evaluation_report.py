"""report.html is a single file and escapes its texts, its charts are reproducible, and it can be written without matplotlib."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sam4mllm_tool.evaluation import EvaluationConfig, ModelSpec, evaluate
from sam4mllm_tool.evaluation.plots import plot_histogram, plot_intervals, plot_reliability
from sam4mllm_tool.evaluation.report import format_heading
from sam4mllm_tool.models.checkpoints import embedded_folder
from tests.evaluation.evaluation_helpers import box_reply, read_reports, sample_line, scripted_models, write_samples

WITH_CHARTS = True
SQUARE, TALL = (4, 3, 24, 18), (28, 3, 36, 27)


def evaluate_five(folder: Path, out: str, kind: str = "a|b") -> Path:
    lines = [sample_line(f"<b>sample</b> {n} | x", SQUARE, kind=kind) for n in range(5)]
    replies = iter([box_reply(*SQUARE), box_reply(*TALL), box_reply(4, 3, 24, 12), box_reply(*SQUARE), "no such object"])
    config = EvaluationConfig("jsonl", write_samples(folder / "data", *lines), method="pqpp")
    evaluate(config, folder / out, models=scripted_models(lambda _: next(replies)))
    return folder / out


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate_five(tmp_path_factory.mktemp("report"), "out")


def test_the_html_report_is_a_single_file_with_its_texts_escaped(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert page.count("<svg ") == page.count("</svg>") == 5
    assert page.count("data:image/png;base64,") == 2 * 5, "truth and prediction of each sample"
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "<b>sample</b>" not in page
    assert "&lt;b&gt;sample&lt;/b&gt; 0 | x" in page
    assert "matplotlib:" not in page


def test_the_markdown_report_refers_to_its_images(report: Path) -> None:
    text = (report / "report.md").read_text()
    assert "Protocol refcoco: " in text
    assert "| a\\|b | 5 |" in text
    images = re.findall(r"\]\((pictures/.*?)\)", text)
    worst = [image for image in images if image.startswith("pictures/worst-1")]
    assert worst == ["pictures/worst-1-truth.png", "pictures/worst-1-prediction.png"]
    assert len(images) == 2 * 5
    assert all((report / image).exists() for image in images)


def test_the_tables_give_units_and_a_dash_where_no_sample_has_a_target(tmp_path: Path) -> None:
    lines = [sample_line("square", SQUARE, kind="present"), sample_line("none", kind="absent")]
    replies = iter([box_reply(*SQUARE), box_reply(*TALL)])
    config = EvaluationConfig("jsonl", write_samples(tmp_path / "data", *lines), protocol="rela")
    metrics = evaluate(config, tmp_path / "out", models=scripted_models(lambda _: next(replies)))
    assert metrics["by_kind"]["absent"]["cIoU"] == 0, "it is defined, and says nothing"
    text = (tmp_path / "out" / "report.md").read_text()
    rows = {row.split(" | ")[0].strip("| "): row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith("|")}
    by_kind = next(row for row in text.splitlines() if row.startswith("|  | samples | cIoU, %")).strip("|").split(" | ")
    assert by_kind[-1].strip() == "model calls, per sample"
    assert rows["absent"][2] == "-"
    assert rows["present"][2].startswith("100.0 [")
    assert rows["model calls"][2] == "per sample"
    assert rows["gIoU"][2] == "%"
    assert "1 samples" not in text


def test_a_chart_fits_a_phone_without_scaling(report: Path) -> None:
    page = (report / "report.html").read_text()
    widths = [float(width) for width in re.findall(r'<svg [^>]*?width="([\d.]+)pt"', page)]
    assert len(widths) == 5
    assert max(widths) * 96 / 72 <= 390 - 2 * 16, "pixels of the screen, less the margins"


def test_a_run_that_is_not_on_a_terminal_draws_no_progress_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_five(tmp_path, "out")
    assert capsys.readouterr().err == ""


def test_the_report_is_the_same_in_a_second_run(report: Path, tmp_path: Path) -> None:
    second = evaluate_five(tmp_path, "out")
    assert read_reports(second)["report.html"] == read_reports(report)["report.html"]


def test_without_matplotlib_the_report_has_no_charts_and_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = (evaluate_five(tmp_path, "out") / "report.html").read_text()
    assert "<svg" not in page
    assert 'pip install "sam4mllm-tool[plots]"' in page
    assert page.count("data:image/png;base64,") == 2 * 5
    assert "<td>cIoU</td>" in page


@pytest.mark.parametrize(
    "label",
    [
        pytest.param("costs $5$ or $", id="math markup"),
        pytest.param("物体 🦊", id="letters that the font lacks"),
        pytest.param("\ud800 lone surrogate", id="text that can't be encoded"),
        pytest.param("x" * 3000, id="long text"),
        pytest.param("</svg><script>", id="markup"),
    ],
)
def test_any_label_can_be_drawn(label: str) -> None:
    svg = plot_intervals([(label, 0.5, (0.25, 0.75))], "title")
    assert svg.startswith("<svg ")
    assert svg.count("</svg>") == 1
    assert "<script" not in svg


def test_charts_can_be_drawn_from_few_values() -> None:
    one_bin = [{"low": 0.0, "high": 0.1, "count": 1, "confidence": 0.05, "right": 0.0}]
    for svg in (
        plot_intervals([], "none"),
        plot_histogram([], "none"),
        plot_histogram([1.0], "one"),
        plot_reliability(one_bin, "one"),
    ):
        assert svg.rstrip().endswith("</svg>")


def test_the_heading_names_the_settings_that_change_the_result() -> None:
    models = {"mllm": "m", "segmenter": "s", "abstain": 0.3, "closer": False}
    order = {"dataset": "jsonl", "split": "val", "models": models, "method": "adaptive"}
    assert format_heading(order) == "jsonl:val, m with s, adaptive, abstaining below 0.3, without crop refinement"
    assert format_heading(order | {"models": models | {"abstain": 0.0}, "method": "pqpp"}) == "jsonl:val, m with s, pqpp"


def test_other_weights_under_the_same_name_make_another_order(tmp_path: Path) -> None:
    copies = {part: Path(shutil.copytree(embedded_folder(part), tmp_path / part)) for part in ("mllm", "adapter", "sam")}
    models = ModelSpec(f"{copies['mllm']}+{copies['adapter']}", str(copies["sam"]))
    base, adapter, segmenter = models.describe()["weights"].values()
    weights = copies["sam"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    changed = models.describe()["weights"]
    assert (changed["base"], changed["adapter"]) == (base, adapter)
    assert changed["segmenter"] != segmenter


_LAYOUT_SCRIPT = """<script>
const page = document.scrollingElement;
const cut = [...document.querySelectorAll("td, th, img, svg, p")].filter(
  each => each.getBoundingClientRect().right > page.clientWidth);
parent.postMessage(`${innerWidth} pixels, ${page.scrollWidth - page.clientWidth} hidden, ${cut.length} cut`, "*");
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_a_phone_and_a_desktop(report: Path, tmp_path: Path, width: int) -> None:
    page = (report / "report.html").read_text()
    shutil.copytree(report, tmp_path / "run", ignore=shutil.ignore_patterns("report.html"))
    (tmp_path / "run" / "report.html").write_text(page.replace("</body>", f"{_LAYOUT_SCRIPT}</body>"))
    (tmp_path / "frame.html").write_text(
        "<script>onmessage = event => { document.title = event.data }</script>"
        f'<iframe src="run/report.html" style="border: 0; width: {width}px; height: 800px"></iframe>'
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,900", "--virtual-time-budget=10000"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{tmp_path / 'frame.html'}"]
    done = subprocess.run(["chromium", *flags], capture_output=True, text=True, timeout=120, check=True)
    assert f"<title>{width} pixels, 0 hidden, 0 cut</title>" in done.stdout
