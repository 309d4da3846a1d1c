"""Results over HTTP, through a real socket: their files, corrections, and the page that shows them."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from sam4mllm_tool.images.output_formats import OUTPUT_FORMATS, get_media_type
from sam4mllm_tool.types import Segmentation
from tests.server.http_servers import create_ring_models, serve
from tests.server.mcp.mcp_servers import IMAGE_URI

BODY = {"image": IMAGE_URI, "expressions": ["the left ring"], "method": "box"}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serve(create_ring_models()) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture(scope="module")
def result(client: httpx.Client) -> dict[str, Any]:
    return dict(client.post("/v1/segment", json={**BODY, "outputs": list(OUTPUT_FORMATS)}).json()["results"][0])


def test_each_file_of_a_result_equals_the_one_that_came_with_it(client: httpx.Client, result: dict[str, Any]) -> None:
    info = client.get("/v1/info").json()
    files = [file for names in info["files"].values() for file in names]
    assert list(info["outputs"]) == list(OUTPUT_FORMATS)
    assert list(result["outputs"]) == files
    for file in files:
        answer = client.get(f"/v1/results/{result['id']}/{file}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, get_media_type(file))
        if not file.endswith(".npz"):  # which hold the time
            assert answer.content == base64.b64decode(result["outputs"][file].partition(",")[2])


def test_what_one_token_made_another_cannot_read() -> None:
    with serve(create_ring_models(), auth_token=("mine", "other")) as url, httpx.Client(base_url=url) as client:
        mine, other = ({"Authorization": f"Bearer {token}"} for token in ("mine", "other"))
        (result,) = client.post("/v1/segment", json={**BODY, "trace": True}, headers=mine).json()["results"]
        for path in ("", "/mask.png", "/trace.html"):
            assert client.get(f"/v1/results/{result['id']}{path}", headers=mine).status_code == 200
            answer = client.get(f"/v1/results/{result['id']}{path}", headers=other)
            assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
        assert (
            client.post("/v1/refine", json={"result": result["id"], "instruction": "bigger"}, headers=other).status_code == 404
        )


FORM_FILE = {"image": ("pots/mug.jpg", base64.b64decode(IMAGE_URI.partition(",")[2]), "image/jpeg")}


@pytest.mark.parametrize("way", ["form", "json", "handle", "handle of a form"])
def test_annotations_refer_to_the_images_file_by_its_name(client: httpx.Client, way: str) -> None:
    body = {"expressions": BODY["expressions"], "method": "box", "outputs": ["coco", "labelme", "cvat"]}
    if way == "form":
        answer = client.post("/v1/segment", data=body, files=FORM_FILE)
    elif way == "json":
        answer = client.post("/v1/segment", json={**body, "image": IMAGE_URI, "image_name": "C:\\pots\\mug.jpg"})
    else:
        sent: dict[str, Any] = (
            {"files": FORM_FILE} if "form" in way else {"json": {"image": IMAGE_URI, "image_name": "mug.jpg"}}
        )
        answer = client.post("/v1/segment", json={**body, "image": client.post("/v1/embed", **sent).json()["image"]})
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    click = {"x": 20, "y": 20, "label": 1}
    refined = client.post("/v1/refine", json={"result": result["id"], "clicks": [click], "outputs": body["outputs"]}).json()
    for outputs in (result["outputs"], refined["result"]["outputs"]):
        files = {name: json.loads(base64.b64decode(uri.partition(",")[2])) for name, uri in outputs.items()}
        assert files["coco.json"]["images"][0]["file_name"] == files["mug.json"]["imagePath"] == "mug.jpg"
        assert files["cvat.json"]["items"][0]["id"] == "mug"
    file = client.get(f"/v1/results/{result['id']}/image.json")
    assert file.headers["content-disposition"] == "inline; filename*=utf-8''mug.json"
    assert file.json()["imagePath"] == "mug.jpg"


@pytest.mark.parametrize("name", ["", "..", "/", "\x00\x1f", "\u202e"])
def test_an_image_without_a_usable_name_is_called_image(client: httpx.Client, name: str) -> None:
    answer = client.post("/v1/segment", json={**BODY, "image_name": name, "outputs": ["labelme"]})
    assert list(answer.json()["results"][0]["outputs"]) == ["image.json"]


def test_a_result_is_read_back_and_corrected_by_a_click(client: httpx.Client, result: dict[str, Any]) -> None:
    assert client.get(f"/v1/results/{result['id']}").json()["objects"] == result["objects"]
    x1, y1, x2, y2 = result["objects"][0]["box"]
    click = {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "label": 1}
    answer = client.post("/v1/refine", json={"result": result["id"], "clicks": [click], "outputs": ["mask"]})
    assert answer.status_code == 200, answer.text
    corrected = answer.json()
    assert corrected["understood"]
    assert list(corrected["result"]["outputs"]) == ["mask.png"]
    assert corrected["result"]["id"] != result["id"]
    assert client.get(f"/v1/results/{result['id']}").json()["objects"] == result["objects"], "the one before stays"
    assert np.any(Segmentation.from_dict(corrected["result"]).mask)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "detail"),
    [
        ("GET", "/v1/results/seg-0000000000000000", None, 404, "segment once more"),
        ("GET", "/v1/results/RESULT/secret.txt", None, 404, "there are mask.png"),
        ("POST", "/v1/refine", {"result": "seg-0"}, 404, "segment once more"),
        ("POST", "/v1/refine", {"result": "RESULT", "outputs": ["gif"]}, 422, "expected mask"),
        ("POST", "/v1/refine", {"result": "RESULT", "clicks": [{"x": 1e9, "y": 0, "label": 1}]}, 422, "clicks"),
        ("POST", "/v1/refine", {"result": "RESULT", "instruction": "make it sing"}, 422, "in the image, as the model sees it"),
    ],
)
def test_what_there_is_not_is_a_problem_that_says_so(
    client: httpx.Client, result: dict[str, Any], method: str, path: str, body: dict[str, Any] | None, status: int, detail: str
) -> None:
    fields = None if body is None else {**body, "result": body["result"].replace("RESULT", result["id"])}
    answer = client.request(method, path.replace("RESULT", result["id"]), json=fields)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert detail in answer.json()["detail"]


def test_the_page_is_served_under_a_strict_policy_and_without_a_token() -> None:
    with serve(create_ring_models(), auth_token=("secret",)) as url, httpx.Client(base_url=url) as client:
        for path in ("/", "/page.js", "/examples/first.png"):
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert client.get("/v1/info").status_code == 401
        assert client.get("/../app.py").status_code == 401
        assert client.get("/nothing", headers={"Authorization": "Bearer secret"}).status_code == 404
