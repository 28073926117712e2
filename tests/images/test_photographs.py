"""`shared.images.photographs`: what a network gets to see of a photograph."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared import CheckpointError, SpecError, get_spec, list_presets
from shared.architecture.preprocessing import PREPROCESSING
from shared.architecture.presets import get_preset
from shared.images.photographs import MAX_ASPECT, load_images
from shared.training.recipes import preprocessing_of, recipes

SPEC = get_spec("torchvision/resnet18")
SIDE = 28  # resized to 32: photographs of 32 x 32 keep their pixels
EXACT = 1e-14  # a few roundings in float64
STEP = 1.0  # resizing rounds to whole grey levels
NOISE = np.random.default_rng(7).integers(0, 256, (32, 32, 3)).astype(np.uint8)
MIDDLE = NOISE[2:30, 2:30].astype(np.float64)


def save(path: Path, image: Image.Image | np.ndarray, **how) -> Path:
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **how)
    return path


def pixels(path: Path, channels: int = 3, side: int = SIDE) -> np.ndarray:
    """The one image at `path` in grey levels from 0 to 255, [side, side, channels]."""
    batch = load_images([path], SPEC.replace(in_channels=channels), "unit", side)
    assert batch.shape == (1, side, side, channels)
    assert batch.dtype == np.float64
    return batch[0] * 255


def test_the_middle_is_cropped(tmp_path: Path) -> None:
    np.testing.assert_allclose(pixels(save(tmp_path / "a.png", NOISE)), MIDDLE, atol=EXACT * 255)


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("imagenet", (MIDDLE / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        ("caffe", MIDDLE[..., ::-1] - [103.939, 116.779, 123.68]),
        ("half", MIDDLE / 127.5 - 1),
        ("tf_official", MIDDLE - [123.68, 116.78, 103.94]),
        ("cifar", (MIDDLE / 255 - [0.4914, 0.4822, 0.4465]) / [0.2023, 0.1994, 0.2010]),
        ("unit", MIDDLE / 255),
        ("fashion-mnist", (MIDDLE / 255 - 0.286) / 0.353),
    ],
)
def test_preprocessing(tmp_path: Path, name: str, by_hand: np.ndarray) -> None:
    found = load_images([save(tmp_path / "a.png", NOISE)], SPEC, name, SIDE)[0]
    np.testing.assert_allclose(found, by_hand, rtol=EXACT, atol=EXACT * 255)


def test_every_preset_has_a_preprocessing_and_every_one_is_used() -> None:
    of_presets = {get_preset(name).preprocessing for name in list_presets()}
    of_recipes = {preprocessing_of(recipe) for recipe in recipes().values()} - {None}
    assert of_presets <= set(PREPROCESSING)
    assert of_presets | of_recipes == set(PREPROCESSING)


def test_size_is_the_spec_s_unless_given(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", NOISE)
    assert load_images([path], get_spec("cifar/resnet20"), "cifar").shape == (1, 32, 32, 3)
    assert load_images([path, path], SPEC, "imagenet").shape == (2, 224, 224, 3)


def test_the_batch_keeps_the_order_of_the_files(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / f"{level}.png", np.full((32, 32, 3), level, np.uint8))
        for level in (200, 10, 90)
    ]
    batch = load_images(paths, SPEC, "unit", SIDE) * 255
    np.testing.assert_allclose(batch[:, 0, 0, 0], [200, 10, 90])


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (6, lambda x: np.rot90(x, 1)),
        (8, lambda x: np.rot90(x, -1)),
    ],
)
def test_exif_orientation_is_followed(tmp_path: Path, orientation: int, undo) -> None:
    stored = Image.fromarray(np.ascontiguousarray(undo(NOISE)))
    exif = stored.getexif()
    exif[0x0112] = orientation
    np.testing.assert_allclose(
        pixels(save(tmp_path / "a.png", stored, exif=exif)), MIDDLE, atol=EXACT * 255
    )


def test_a_grey_file_has_three_equal_channels(tmp_path: Path) -> None:
    found = pixels(save(tmp_path / "a.png", NOISE[..., 0]))
    np.testing.assert_allclose(found, MIDDLE[..., :1].repeat(3, axis=-1), atol=EXACT * 255)


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    palette = Image.fromarray(NOISE).quantize(16)
    expected = np.asarray(palette.convert("RGB"), np.float64)[2:30, 2:30]
    np.testing.assert_allclose(
        pixels(save(tmp_path / "a.png", palette)), expected, atol=EXACT * 255
    )


@pytest.mark.filterwarnings("error")
def test_a_transparent_palette_says_nothing(tmp_path: Path) -> None:
    palette = Image.fromarray(NOISE).quantize(16)
    path = save(tmp_path / "a.png", palette, transparency=bytes(range(16)))
    assert pixels(path).shape == (SIDE, SIDE, 3)


def test_transparency_is_ignored(tmp_path: Path) -> None:
    alpha = np.concatenate([NOISE, NOISE[..., :1]], axis=-1)
    np.testing.assert_allclose(pixels(save(tmp_path / "a.png", alpha)), MIDDLE, atol=EXACT * 255)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    deep = NOISE[..., 0].astype(np.uint16) * 257
    found = pixels(save(tmp_path / "a.png", deep))
    np.testing.assert_allclose(found, MIDDLE[..., :1].repeat(3, axis=-1), atol=EXACT * 255)


def test_one_bit(tmp_path: Path) -> None:
    found = pixels(save(tmp_path / "a.png", Image.fromarray(NOISE[..., 0] > 127)))
    assert set(np.unique(found.round())) == {0, 255}


def test_jpeg(tmp_path: Path) -> None:
    level = np.full((32, 32, 3), (200, 100, 50), np.uint8)
    found = pixels(save(tmp_path / "a.jpg", level, quality=95))
    np.testing.assert_allclose(
        found, np.broadcast_to((200.0, 100.0, 50.0), found.shape), atol=3 * STEP
    )


def test_cmyk_jpeg(tmp_path: Path) -> None:
    found = pixels(save(tmp_path / "a.jpg", Image.new("CMYK", (32, 32), (0, 255, 255, 0))))
    np.testing.assert_allclose(
        found, np.broadcast_to((255.0, 0.0, 0.0), found.shape), atol=3 * STEP
    )


def test_one_channel_gets_the_luma(tmp_path: Path) -> None:
    found = pixels(save(tmp_path / "a.png", NOISE), channels=1)
    np.testing.assert_allclose(found[..., 0], MIDDLE @ [0.299, 0.587, 0.114], atol=STEP)


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channel_counts_have_no_photographs(tmp_path: Path, channels: int) -> None:
    with pytest.raises(SpecError, match=f"in_channels = {channels}"):
        pixels(save(tmp_path / "a.png", NOISE), channels)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1000, 20)])
def test_any_size_fills_the_square(tmp_path: Path, size: tuple[int, int]) -> None:
    found = pixels(save(tmp_path / "a.png", Image.new("RGB", size, (9, 8, 7))))
    np.testing.assert_allclose(
        found, np.broadcast_to((9.0, 8.0, 7.0), found.shape), atol=EXACT * 255
    )


def test_the_longer_side_is_cropped_to_its_middle(tmp_path: Path) -> None:
    wide = np.concatenate([np.zeros_like(NOISE), NOISE, np.zeros_like(NOISE)], axis=1)
    np.testing.assert_allclose(pixels(save(tmp_path / "a.png", wide)), MIDDLE, atol=EXACT * 255)


def test_a_strip_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = Image.Image.resize
    monkeypatch.setattr(
        Image.Image,
        "resize",
        lambda self, size, *rest: sizes.append(size) or original(self, size, *rest),
    )
    strip = np.zeros((40000, 2, 3), np.uint8)
    strip[19990:20010] = 255
    assert pixels(save(tmp_path / "a.png", strip))[14].min() == 255
    assert sizes == [(32, 32 * MAX_ASPECT)]


def refusal(path: Path) -> str:
    """The message of the refusal, which names the file in one line."""
    with pytest.raises(CheckpointError) as error:
        load_images([path], SPEC, "imagenet")
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated(tmp_path: Path, suffix: str, part: float) -> None:
    path = save(tmp_path / f"a.{suffix}", NOISE)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    refusal(path)


def test_damaged_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", NOISE)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    refusal(path)


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"]
)
def test_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert "expected JPEG, PNG" in refusal(path) or "cannot be read" in refusal(path)


def test_formats_that_start_programs_are_not_opened(tmp_path: Path) -> None:
    path = save(tmp_path / "a.eps", Image.fromarray(NOISE))
    assert "not an image that can be read" in refusal(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.png")
    assert "Is a directory" in refusal(tmp_path)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        )

    size = (60000).to_bytes(4, "big")
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + size + bytes([8, 2, 0, 0, 0]))
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    assert "more pixels" in refusal(path)


def test_whatever_a_decoder_raises_is_one_kind_of_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments, **keywords):
        raise KeyError("tag 42")

    path = save(tmp_path / "a.png", NOISE)
    monkeypatch.setattr(Image.Image, "getexif", broken)
    assert "a damaged image (KeyError" in refusal(path)


def test_reading_leaves_the_file_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", NOISE)
    opened: list[io.IOBase] = []
    original = Path.open

    def noted(self, *rest, **keywords):
        opened.append(original(self, *rest, **keywords))
        return opened[-1]

    monkeypatch.setattr(Path, "open", noted)
    load_images([path], SPEC, "imagenet", SIDE)
    assert [file.closed for file in opened] == [True]
