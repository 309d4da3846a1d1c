"""What `sam4mllm segment` leaves out to start fast, and that the process works with all of it nevertheless."""

import subprocess
import sys

import pytest

from tests.example_scene import EXAMPLE_IMAGE, MEMBER

LEFT_OUT = (
    *("torch._dynamo.convert_frame", "torch._inductor", "torch.distributed.tensor", "torch.distributed.fsdp", "sympy"),
    *("scipy", "sklearn", "pandas", "matplotlib", "peft", "langchain_core", "torchvision", "openai"),
)
COMMAND = f"""
import sys
from sam4mllm_tool.cli.main import main
sys.argv = ["sam4mllm", "segment", {str(EXAMPLE_IMAGE)!r}, {MEMBER!r}, "--json"]
code = main()
"""


def run(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    return done.stdout.splitlines()


@pytest.mark.slow
def test_segmenting_imports_nothing_that_only_training_and_compiling_need() -> None:
    result, imported = run(f"{COMMAND}print(code, *[name for name in {LEFT_OUT} if name in sys.modules])")
    assert imported == "0"
    assert '"objects": [{' in result


@pytest.mark.slow
def test_the_compiler_and_peft_work_where_they_were_left_out() -> None:
    """As for a program that runs the command in its own process, and goes on."""
    _, compiled, adapted = run(f"""{COMMAND}
import torch
print(torch.compile(lambda number: number + 1, backend="eager")(torch.ones(())).item())
from sam4mllm_tool.models.checkpoints import embedded_folder
from sam4mllm_tool.models.mllm import load_mllm
from PIL import Image
base, adapter = (embedded_folder(part) for part in ("mllm", "adapter"))
switched = load_mllm(base).use(adapter)
from sam4mllm_tool.types import FreeText, Question, Turn
print(switched.reply(Image.open({str(EXAMPLE_IMAGE)!r}), [Question((Turn("user", "?"),), FreeText(2))])[0].text is not None)
""")
    assert (compiled, adapted) == ("2.0", "True")
