"""Servers on loopback that speak OpenAI's chat API: one that a test scripts, one over real weights.

The one over weights decodes with transformers' own `generate` and reports the probabilities of tokens as vLLM does. It shares
no code with the backends that it is compared with.
"""

import base64
import io
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import PIL.Image
import torch

from sam4mllm_tool.models.checkpoints import embedded_folder
from sam4mllm_tool.models.mllm.loading import load_checkpoint

__all__ = ["Exchange", "LoopbackServer", "answer_numbered", "answer_with_weights", "build_completion", "read_image", "serve"]

Body = dict[str, Any]
Response = tuple[int, "Body | str | bytes", dict[str, str]]
"""Status, body (JSON, or text or bytes as they are) and headers."""


@dataclass(frozen=True)
class Exchange:
    """A request that a server got: the path, headers in small letters, and the JSON body."""

    path: str
    headers: Mapping[str, str]
    body: Body

    @property
    def last_text(self) -> str:
        """The text of the last message."""
        content = self.body["messages"][-1]["content"]
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)

    @property
    def has_image(self) -> bool:
        """Whether a message holds an image."""
        return "image_url" in json.dumps(self.body)


@dataclass
class LoopbackServer:
    """What a test knows of a running server."""

    url: str
    exchanges: list[Exchange] = field(default_factory=list)
    connections: int = 0

    @property
    def chats(self) -> list[Exchange]:
        """The requests for completions, without those that connecting sent."""
        return [each for each in self.exchanges if each.path == "/v1/chat/completions" and "red square" not in str(each.body)]


def build_completion(text: str | None, *, probabilities: list[dict[str, float]] | None = None, **other: Any) -> Body:
    """Build the JSON of a completion.

    Args:
        text: The answer.
        probabilities: For each token of the answer the probabilities of what could stand there, the most probable first.
        other: `finish_reason`, `reasoning_content`, `tokens` read, those that were `cached`.
    """
    content = [
        {
            "token": next(iter(each)),
            "logprob": math.log(next(iter(each.values()))),
            "top_logprobs": [{"token": token, "logprob": math.log(share)} for token, share in each.items()],
        }
        for each in probabilities or ()
    ]
    message = {"role": "assistant", "content": text, "reasoning_content": other.get("reasoning_content")}
    choice = {"index": 0, "message": message, "finish_reason": other.get("finish_reason", "stop")}
    choice["logprobs"] = {"content": content} if probabilities is not None else None
    usage = {"prompt_tokens": other.get("tokens", 100), "completion_tokens": 2, "total_tokens": 102}
    if "cached" in other:
        usage["prompt_tokens_details"] = {"cached_tokens": other["cached"]}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


@contextmanager
def serve(
    answer: Callable[[Exchange], Response | Body | str], *, models: list[str] | None = None, owner: str = "test"
) -> Iterator[LoopbackServer]:
    """Run a server whose completions a function gives: their text, their JSON, or status, body and headers.

    Args:
        answer: Called for each request other than for the list of models.
        models: What the server lists; None: `answer` is called for that too.
        owner: Whom it names as their owner.
    """
    running = LoopbackServer("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            running.connections += 1

        def do_GET(self) -> None:
            self.respond({})

        def do_POST(self) -> None:
            self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def respond(self, body: Body) -> None:
            exchange = Exchange(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            running.exchanges.append(exchange)
            if self.path == "/v1/models" and models is not None:
                listed = [{"id": name, "object": "model", "created": 1, "owned_by": owner} for name in models]
                given: Any = {"object": "list", "data": listed}
            else:
                given = answer(exchange)
            if isinstance(given, str):
                given = build_completion(given)
            status, content, headers = given if isinstance(given, tuple) else (200, given, {})
            text = content if isinstance(content, str | bytes) else json.dumps(content)
            data = text.encode() if isinstance(text, str) else text
            try:
                self.send_response(status)
                kind = "text/html" if isinstance(content, str) else "application/json"
                for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client gave up

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    running.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()


def read_image(exchange: Exchange) -> PIL.Image.Image | None:
    """Return the image of a request, decoded."""
    for message in exchange.body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "image_url":
                data = part["image_url"]["url"].partition(",")[2]
                return PIL.Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    return None


def answer_numbered(answer: Callable[[str], str], text: str) -> str:
    """Answer a question by a function of its text, or each of those that are asked as one numbered question."""
    if "on a line of its own" not in text:
        return answer(text)
    _, *lines = text.split("\n")
    numbered = [line.partition(". ") for line in lines if re.match(r"\d+\. ", line)]
    shared = "\n".join(lines[: len(lines) - len(numbered)])
    return "\n".join(f"{number}. {answer(f'{shared} {end}')}" for number, _, end in numbered)


def answer_with_weights() -> Callable[[Exchange], Body]:
    """Return a server's function over the embedded MLLM: greedy decoding, with the probabilities of tokens."""
    model, processor = load_checkpoint(embedded_folder("mllm"), embedded_folder("adapter"), device="cpu")
    lock = threading.Lock()

    def answer(exchange: Exchange) -> Body:
        image = read_image(exchange)
        messages = [{"role": each["role"], "content": _parts(each["content"])} for each in exchange.body["messages"]]
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
        with lock, torch.inference_mode():
            inputs = processor(text=[prompt], images=[image] if image else None, return_tensors="pt", add_special_tokens=False)
            output = model.generate(
                **inputs, max_new_tokens=exchange.body["max_tokens"], output_scores=True, return_dict_in_generate=True
            )
        ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        end = processor.tokenizer.eos_token_id
        is_complete = ids[-1:] == [end]
        ids = ids[:-1] if is_complete else ids
        probabilities = [_most_probable(scores[0], processor.tokenizer) for scores in output.scores[: len(ids)]]
        return build_completion(
            processor.tokenizer.decode(ids, skip_special_tokens=True),
            probabilities=probabilities,
            finish_reason="stop" if is_complete else "length",
            tokens=inputs["input_ids"].shape[1],
        )

    return answer


def _parts(content: str | list[Body]) -> list[Body]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [{"type": "image"} if part["type"] == "image_url" else part for part in content]


def _most_probable(scores: torch.Tensor, tokenizer: Any) -> dict[str, float]:
    probabilities, ids = torch.softmax(scores.float(), -1).topk(20)
    return {tokenizer.decode([int(token)]): max(float(share), 1e-30) for share, token in zip(probabilities, ids, strict=True)}
