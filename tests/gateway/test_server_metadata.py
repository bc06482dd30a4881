"""What the gateway says of itself."""

from gateway.server_metadata import EXTENSIONS, server_metadata


def test_metadata_names_the_server_and_its_extensions() -> None:
    metadata = server_metadata()

    assert metadata.name == "meshserve"
    assert metadata.version
    assert tuple(metadata.extensions) == EXTENSIONS
