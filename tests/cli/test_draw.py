"""The command `minitoolai draw`."""

import io

import pytest
from PIL import Image

from minitoolai.cli.main import main


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["draw", *arguments])
    return ended.value.code


def test_a_picture_is_drawn_into_the_asked_file_with_its_parameters(tmp_path, capsys):
    path = tmp_path / "apple.png"
    assert run("a red apple", "-o", str(path), "--seed", "5", "--size", "320x256", "--scheduler", "Euler a") == 0
    picture = Image.open(path)
    assert picture.size == (320, 256)
    assert "Sampler: Euler a, CFG scale: 2, Seed: 5, Size: 320x256" in picture.text["parameters"]
    assert "320x256, seed 5, drawn by minitoolai-sketch" in capsys.readouterr().out


def test_a_picture_goes_to_standard_output_alone(capfdbinary):
    assert run("a red apple", "-o", "-", "--size", "256x256", "--steps", "1") == 0
    assert Image.open(io.BytesIO(capfdbinary.readouterr().out)).size == (256, 256)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--size", "100x100"), "--size"),
        (("--size", "1024"), "--size"),
        (("--scheduler", "UniPC"), "--scheduler"),
        (("--steps", "9"), "--steps"),
        (("--steps", "0"), "--steps"),
        (("--cfg", "8"), "--cfg"),
        (("--cfg", "nan"), "--cfg"),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_nothing_is_written(tmp_path, capsys, arguments, named):
    path = tmp_path / "never.png"
    assert run("a red apple", "-o", str(path), *arguments) == 1
    assert named in capsys.readouterr().err
    assert not path.exists()


def test_an_empty_prompt_and_a_folder_that_is_not_there_are_refused(tmp_path, capsys):
    assert run(" ") == 1
    assert "prompt" in capsys.readouterr().err
    assert run("sun", "--steps", "1", "-o", str(tmp_path / "nowhere" / "sun.png")) == 1
    assert "cannot write" in capsys.readouterr().err
