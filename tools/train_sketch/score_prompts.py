"""Step 8: does the prompt reader choose what a prompt must show? Prints the share for each list, and the misses.

usage: score_prompts.py FOLDER [LIST ...], where FOLDER is the shipped model and LIST one of prompts/*.txt. A prompt is
right if each thing behind its arrow, in one of the ways given, is among the subjects, the support or the background.
"""

import sys
from pathlib import Path

import numpy as np

from minitoolai.engines.images.prompts.reader import PromptReader, Scene
from minitoolai.engines.images.prompts.words import Words

LISTS = Path(__file__).parent / "prompts"


def cases(path: Path) -> list[tuple[str, list[set[str]]]]:
    """Return each prompt with what it must show: a list of sets of answers that count."""
    found = []
    for line in path.read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            prompt, _, wanted = line.partition("=>")
            found.append((prompt.strip(), [set(map(str.strip, part.split("|"))) for part in wanted.split("&")]))
    return found


def shown_in(scene: Scene) -> set[str]:
    """Return the names of all that a scene shows, with colours ("blue cat") and backgrounds ("bg:beach")."""
    subjects = [*scene.subjects, *([scene.support] if scene.support else [])]
    found = {subject.name for subject in subjects} | {
        f"{subject.colour} {subject.name}".strip() for subject in subjects
    }
    return found | {f"bg:{name}" for name in (scene.background, scene.light) if name}


def main() -> None:
    folder = Path(sys.argv[1])
    words = Words(folder, np.load(folder / "words.npz")["names"].tolist())
    reader = PromptReader(words)
    for path in [LISTS / f"{name}.txt" for name in sys.argv[2:]] or sorted(LISTS.glob("*.txt")):
        listed = cases(path)
        unknown = {w for _, wanted in listed for one in wanted for w in one if ":" not in w} - set(words.names)
        unknown = {w for w in unknown if w.split(" ", 1)[-1] not in words.names}
        assert not unknown, f"{path.name} asks for what the model does not know: {sorted(unknown)}"
        misses = []
        for prompt, wanted in listed:
            shown = shown_in(reader.read(prompt))
            if not all(one & shown for one in wanted):
                misses.append(f"  {prompt} -> {', '.join(sorted(shown)) or 'nothing'}")
        print(f"{path.stem}: {1 - len(misses) / len(listed):.3f} of {len(listed)}", *misses, sep="\n")


if __name__ == "__main__":
    main()
