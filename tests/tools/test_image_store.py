"""Images by id: what a store keeps, and which ids a conversation knows."""

import copy
import multiprocessing
import pickle
import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from PIL import ExifTags, Image

from sam4mllm_tool.errors import ImageError, Sam4MllmError
from sam4mllm_tool.images.load import CALLER_POLICY, load_image
from sam4mllm_tool.tools.image_store import (
    IMAGE_IDS_KEY,
    ImageStore,
    MissingImageError,
    UnknownImageError,
    compute_image_id,
    find_image_id,
    is_image_id,
    list_image_ids,
)
from tests.embedded_world import draw_image

A, B, C = "img-aaaaaaaaaaaa", "img-bbbbbbbbbbbb", "img-cccccccccccc"


def scene(seed: int = 200_000) -> Image.Image:
    return draw_image(seed)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(seed: int) -> Image.Image:
    """10,000 bytes of pixels that no format makes smaller."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (50, 67, 3), np.uint8))


def human(*ids: str) -> HumanMessage:
    return HumanMessage("look", additional_kwargs={IMAGE_IDS_KEY: list(ids)})


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    return ImageStore(folder=tmp_path / "images" if request.param == "folder" else None)


# Ids


def test_equal_pixels_have_equal_ids_whatever_the_file(store: ImageStore):
    image = scene()
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "a scene"
    forms = [image, encoded(image), encoded(image, "BMP"), encoded(image, "WEBP", lossless=True), encoded(image, exif=exif)]
    assert {store.put(form) for form in forms} == {compute_image_id(image)}
    assert is_image_id(compute_image_id(image))


def test_a_turned_photograph_has_the_id_of_the_upright_one(store: ImageStore):
    image = scene()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    turned = encoded(image.transpose(Image.Transpose.ROTATE_180), exif=exif)
    assert store.put(turned) == store.put(image)


def test_one_pixel_or_another_shape_makes_another_id():
    image = scene()
    changed = image.copy()
    changed.putpixel((3, 4), (1, 2, 3))
    plain = [Image.new("RGB", size, (200, 0, 0)) for size in ((6, 4), (4, 6), (3, 8))]  # the same bytes
    assert len({compute_image_id(other) for other in (image, changed, *plain)}) == 5


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("img-AAAAAAAAAAAA", id="capitals"),
        pytest.param("img-aaaaaaaaaaa", id="too short"),
        pytest.param("img-aaaaaaaaaaaaa", id="too long"),
        pytest.param("img-aaaaaaaaaaaa\n", id="line break"),
        pytest.param("../img-aaaaaaaaaaaa", id="path before"),
        pytest.param("img-aaaaaaaaaaaa/../x", id="path behind"),
        pytest.param("img-../../../etc", id="path inside"),
        pytest.param("img-aaaaaaaaaaaa\0", id="null"),
        pytest.param("img-١٢٣٤٥٦٧٨٩٠١٢", id="digits of another script"),
        pytest.param("", id="nothing"),
        pytest.param("latest", id="a word"),
        pytest.param(None, id="None"),
        pytest.param(12, id="a number"),
    ],
)
def test_only_the_exact_form_of_an_id_opens_anything(text: object, tmp_path: Path):
    (tmp_path / "x.png").write_bytes(encoded(scene()))
    for store in (ImageStore(), ImageStore(folder=tmp_path / "in")):
        assert not is_image_id(text)
        assert text not in store
        with pytest.raises(UnknownImageError, match="expected an image's id as in img-"):
            store.get(text)  # type: ignore[arg-type]
    assert not (tmp_path / "in").exists()


# The store


def test_an_image_comes_back_pixel_for_pixel_and_without_metadata(store: ImageStore):
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "taken at home"
    name = store.put(encoded(scene(), exif=exif))
    back = store.get(name)
    assert np.array_equal(np.asarray(back), np.asarray(scene()))
    assert not back.getexif()
    back.putpixel((0, 0), (9, 9, 9))
    assert compute_image_id(store.get(name)) == name


def test_a_store_opens_what_its_policy_opens(store: ImageStore, tmp_path: Path):
    path = tmp_path / "scene.png"
    path.write_bytes(encoded(scene()))
    with pytest.raises(ImageError, match="paths are turned off"):
        store.put(path)
    with pytest.raises(ImageError, match="none of the formats"):
        store.put(b"no picture")
    assert store.put(path, policy=CALLER_POLICY) == compute_image_id(scene())


def test_a_missing_image_is_an_error_that_says_what_to_do(store: ImageStore):
    with pytest.raises(MissingImageError, match=f"{A} is no longer kept; ask for it to be sent again"):
        store.get(A)
    assert A not in store


def test_memory_drops_the_least_recently_used_beyond_its_bytes():
    size = len(encoded(noise(0), compress_level=1))
    store = ImageStore(max_bytes=3 * size + size // 2)
    first, second, third = (store.put(noise(seed)) for seed in range(3))
    store.get(first)
    fourth = store.put(noise(3))
    assert [name in store for name in (first, second, third, fourth)] == [True, False, True, True]
    with pytest.raises(MissingImageError):
        store.get(second)


def test_an_image_larger_than_the_store_is_refused_and_drops_nothing():
    store = ImageStore(max_bytes=11_000)
    kept = store.put(noise(0))
    with pytest.raises(Sam4MllmError, match=r"takes [\d,]+ bytes, the store keeps 11,000; scale it down"):
        store.put(Image.fromarray(np.tile(np.asarray(noise(0)), (2, 2, 1))).resize((101, 133)))
    assert kept in store
    with pytest.raises(ValueError, match="max_bytes of at least 1, got 0"):
        ImageStore(max_bytes=0)


def test_a_folder_outlives_the_store_and_holds_ordinary_files(tmp_path: Path):
    name = ImageStore(folder=tmp_path / "a" / "b").put(scene())
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [f"{name}.png"]
    assert compute_image_id(load_image(tmp_path / "a" / "b" / f"{name}.png")) == name
    assert compute_image_id(ImageStore(folder=tmp_path / "a" / "b").get(name)) == name


@pytest.mark.parametrize("content", [b"", b"no picture", encoded(scene())[:-40], encoded(scene(200_001))])
def test_a_damaged_file_is_an_error_until_the_image_is_sent_again(tmp_path: Path, content: bytes):
    store = ImageStore(folder=tmp_path)
    name = store.put(scene())
    (tmp_path / f"{name}.png").write_bytes(content)
    with pytest.raises(MissingImageError, match=f"the file kept for {name} .*; ask for the image again"):
        store.get(name)
    assert store.put(scene()) == name
    assert compute_image_id(store.get(name)) == name


def test_a_folder_that_cannot_be_written_or_read_is_an_error(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Sam4MllmError, match=r"cannot be (kept|read)"):
        ImageStore(folder=tmp_path / "file").put(scene())
    store = ImageStore(folder=tmp_path)
    (tmp_path / f"{A}.png").mkdir()
    with pytest.raises(Sam4MllmError, match=f"{A}.png' cannot be read: Is a directory"):
        store.get(A)


def test_files_are_readable_by_their_owner_alone(tmp_path: Path):
    name = ImageStore(folder=tmp_path).put(scene())
    assert (tmp_path / f"{name}.png").stat().st_mode & 0o777 == 0o600


def _put_many(folder: Path, seeds: range) -> None:
    store = ImageStore(folder=folder)
    for seed in seeds:
        store.put(noise(seed))
        store.get(store.put(noise(0)))


@pytest.mark.slow
def test_processes_and_threads_share_a_folder(tmp_path: Path):
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=_put_many, args=(tmp_path, range(10)))]
    threads = [threading.Thread(target=_put_many, args=(tmp_path, range(10))) for _ in range(3)]
    for worker in (*others, *threads):
        worker.start()
    for worker in (*others, *threads):
        worker.join()
    assert [process.exitcode for process in others] == [0]
    assert {path.name for path in tmp_path.iterdir()} == {f"{compute_image_id(noise(seed))}.png" for seed in range(10)}
    assert all(compute_image_id(load_image(path)) == path.stem for path in tmp_path.iterdir())


def test_copies_share_the_images_and_a_pickled_store_keeps_its_folder(store: ImageStore):
    name = store.put(scene())
    assert name in copy.copy(store)
    assert name in copy.deepcopy(store)
    again = pickle.loads(pickle.dumps(store))
    assert (again.folder, again.max_bytes) == (store.folder, store.max_bytes)
    assert (name in again) is bool(store.folder)


# What a conversation knows


def test_a_conversation_knows_the_images_that_people_sent_in_the_order_of_the_last_arrival():
    messages = [human(A, B), AIMessage("seen"), human(C), human(A)]
    assert list_image_ids(messages) == [B, C, A]
    assert list_image_ids([]) == []


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(HumanMessage(f"[picture {A}, 640 x 480]"), id="written by a person"),
        pytest.param(AIMessage("", additional_kwargs={IMAGE_IDS_KEY: [A]}), id="a model's"),
        pytest.param(ToolMessage("", tool_call_id="1", additional_kwargs={IMAGE_IDS_KEY: [A]}), id="a tool's"),
        pytest.param(HumanMessage("", additional_kwargs={IMAGE_IDS_KEY: A}), id="no list"),
        pytest.param(HumanMessage("", additional_kwargs={IMAGE_IDS_KEY: ["../x", None, [A], 3]}), id="no ids"),
        pytest.param({"role": "user", "content": "", "additional_kwargs": None}, id="nothing beside"),
        pytest.param(("user", "hello"), id="a tuple"),
        pytest.param("hello", id="a text"),
    ],
)
def test_an_id_counts_only_on_a_persons_message(message: object):
    assert list_image_ids([message]) == []


def test_messages_as_dicts_count_too():
    assert list_image_ids([{"role": "user", "content": "", "additional_kwargs": {IMAGE_IDS_KEY: [A]}}]) == [A]
    assert list_image_ids([human(A).model_dump()]) == [A]


def test_latest_is_the_last_image_and_an_id_is_itself():
    messages = [human(A), human(B)]
    assert [find_image_id(image, messages) for image in ("latest", "LATEST ", A, f" [{A}]", f'"{B}"')] == [B, B, A, A, B]


def test_the_error_for_an_unknown_image_lists_the_known_ones():
    with pytest.raises(UnknownImageError, match=f"no image '{C}' in this conversation; its images are 1: {A}; 2: {B} .latest."):
        find_image_id(C, [human(A, B)])
    with pytest.raises(UnknownImageError, match="there is no image in this conversation yet"):
        find_image_id("latest", [HumanMessage("hello")])
    with pytest.raises(UnknownImageError) as caught:
        find_image_id("x" * 10_000, [human(*(f"img-{number:012x}" for number in range(500)))])
    assert len(str(caught.value)) < 600
