"""What a ledger says of libraries."""

from importlib.metadata import PackageNotFoundError

from compress.pipeline import runner


def test_a_library_that_is_not_installed_is_left_out(monkeypatch):
    """torchao comes with the extra baselines alone, and no run needs it."""

    def version(name: str) -> str:
        if name == "torchao":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(runner, "version", version)
    found = runner.installed_versions()
    assert "torchao" not in found
    assert found["onnx"] == "1.0"
