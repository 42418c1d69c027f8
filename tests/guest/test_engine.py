"""What the guest's engine is given of this machine's images. (That it runs them: tests/docker/test_netem_docker.py.)"""

import json
import shutil

import docker
import pytest

from guest import engine
from guest.machine import GuestError

pytestmark = [pytest.mark.docker, pytest.mark.root]


@pytest.fixture(scope="module")
def storage():
    try:
        return engine.storage()
    except GuestError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def images():
    """Of ours: tag -> what the engine calls the image."""
    client = docker.from_env()
    try:
        found = {tag: image.id for image in client.images.list() for tag in image.tags if tag.startswith("testbed-")}
    finally:
        client.close()
    return found or pytest.skip("none of our images is built: `make image`")


def adopted(data):
    """Tags, and what the layers hold at their top, by name."""
    repositories = json.loads((data / "image" / "overlay2" / "repositories.json").read_text())["Repositories"]
    layers = {
        link.name: {path.name for path in link.resolve().iterdir()} for link in (data / "overlay2" / "l").iterdir()
    }
    return {tag for tags in repositories.values() for tag in tags}, layers


def test_all_our_images_are_adopted_and_their_layers_stay_where_they_are(storage, images, tmp_path):
    engine.adopt_images(storage / "image" / "overlay2", storage / "overlay2", tmp_path)
    found, layers = adopted(tmp_path)
    assert found == set(images)
    assert any({"usr", "etc"} <= names for names in layers.values())  # the base
    assert sum(path.lstat().st_size for path in tmp_path.rglob("*")) < 10e6  # of a gigabyte


def test_an_image_that_is_being_removed_is_left_out(storage, images, tmp_path):
    known, data = tmp_path / "known", tmp_path / "data"
    shutil.copytree(storage / "image" / "overlay2", known)
    gone = next(iter(images.values()))
    (known / "imagedb" / "content" / "sha256" / gone.removeprefix("sha256:")).unlink()
    engine.adopt_images(known, storage / "overlay2", data)
    found, _ = adopted(data)
    assert found == {tag for tag, image in images.items() if image != gone}
