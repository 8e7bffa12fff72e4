"""Code tasks: a function to write in Python, and assertions that run in a process without files, network and time."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
from typing import NamedTuple


class CodeTask(NamedTuple):
    """A function to write, what it does, and assertions about it."""

    signature: str
    does: str
    tests: str

    @property
    def prompt(self) -> str:
        """Return the question."""
        return (
            f"Write the Python function {self.signature}, which {self.does}. Respond with one code block that has only "
            "the function, without explanations, examples and comments."
        )

    def is_right(self, answer: str) -> bool:
        """Return True if the code in the answer passes the assertions."""
        return passes(code_of(answer), self.tests)


TASKS = [
    CodeTask(*row)
    for row in (
        ("add(a, b)", "returns the sum of two numbers", "assert add(2, 3) == 5; assert add(-1, 1) == 0"),
        ("is_even(n)", "returns True if the integer n is even, else False", "assert is_even(4); assert not is_even(7); assert is_even(0)"),
        ("reverse_text(s)", "returns the string s reversed", "assert reverse_text('abc') == 'cba'; assert reverse_text('') == ''"),
        ("factorial(n)", "returns n! for n >= 0", "assert factorial(0) == 1; assert factorial(5) == 120"),
        ("fib(n)", "returns the n-th Fibonacci number, with fib(0) = 0 and fib(1) = 1", "assert [fib(n) for n in range(8)] == [0, 1, 1, 2, 3, 5, 8, 13]"),
        ("is_palindrome(s)", "returns True if the string reads the same backwards, ignoring case and all characters that are not letters or digits", "assert is_palindrome('A man, a plan, a canal: Panama'); assert not is_palindrome('ab')"),
        ("count_vowels(s)", "returns how many of the letters a, e, i, o, u, of either case, are in s", "assert count_vowels('Education') == 5; assert count_vowels('xyz') == 0"),
        ("is_prime(n)", "returns True if the integer n is a prime number", "assert [n for n in range(20) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19]"),
        ("gcd(a, b)", "returns the greatest common divisor of two positive integers", "assert gcd(12, 18) == 6; assert gcd(7, 5) == 1"),
        ("unique(items)", "returns a list of the items without duplicates, in the order of their first occurrence", "assert unique([3, 1, 3, 2, 1]) == [3, 1, 2]; assert unique([]) == []"),
        ("flatten(lists)", "returns one flat list of all items of a list of lists", "assert flatten([[1, 2], [], [3]]) == [1, 2, 3]"),
        ("word_counts(text)", "returns a dict that maps each word of text, split at whitespace, to how often it occurs", "assert word_counts('a b a') == {'a': 2, 'b': 1}; assert word_counts('') == {}"),
        ("second_largest(numbers)", "returns the second largest of the distinct numbers in a list", "assert second_largest([1, 5, 3, 5]) == 3; assert second_largest([2, 1]) == 1"),
        ("binary_search(items, x)", "returns the index of x in the sorted list items, or -1 if it is not there", "assert binary_search([1, 3, 5, 7], 5) == 2; assert binary_search([1, 3], 2) == -1; assert binary_search([], 1) == -1"),
        ("to_celsius(f)", "converts degrees Fahrenheit to degrees Celsius", "assert abs(to_celsius(212) - 100) < 1e-9; assert abs(to_celsius(32)) < 1e-9"),
        ("chunks(items, n)", "returns a list of consecutive parts of the list items, each with n items, the last one possibly with fewer", "assert chunks([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]"),
        ("anagrams(a, b)", "returns True if two strings have the same letters, ignoring case and spaces", "assert anagrams('Dormitory', 'dirty room'); assert not anagrams('abc', 'abd')"),
        ("fizzbuzz(n)", "returns a list of strings for 1 to n: 'Fizz' for multiples of 3, 'Buzz' for multiples of 5, 'FizzBuzz' for both, else the number as a string", "assert fizzbuzz(5) == ['1', '2', 'Fizz', '4', 'Buzz']; assert fizzbuzz(15)[-1] == 'FizzBuzz'"),
        ("balanced(s)", "returns True if the brackets (), [] and {} in s are balanced and properly nested", "assert balanced('{[()]}'); assert not balanced('(]'); assert not balanced('(('); assert balanced('')"),
        ("roman(n)", "returns the Roman numeral of an integer from 1 to 3999", "assert roman(4) == 'IV'; assert roman(1994) == 'MCMXCIV'; assert roman(3999) == 'MMMCMXCIX'"),
    )
]  # fmt: skip

#: Refuses whatever reaches beyond the process. The code of a model is not trusted.
_SANDBOX = """
import sys
def _guard(event, args):
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        raise PermissionError(event)
    if event.split(".")[0] in ("socket", "subprocess", "ctypes", "shutil", "ftplib", "urllib", "webbrowser"):
        raise PermissionError(event)
    if event in ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.remove", "os.rename",
                 "os.rmdir", "os.mkdir", "os.chmod", "os.kill", "os.link", "os.symlink", "os.truncate"):
        raise PermissionError(event)
sys.addaudithook(_guard)
"""
_TIME_S, _MEMORY = 5, 512 * 1024 * 1024


def code_of(answer: str) -> str:
    """Return the first code block of an answer, or all of it."""
    found = re.search(r"```(?:python|py)?\s*\n(.*?)(?:```|\Z)", answer, re.DOTALL | re.IGNORECASE)
    return found[1] if found else answer


def passes(code: str, tests: str) -> bool:
    """Return True if the assertions hold after the code, run in a process of its own with limits."""
    program = f"{_SANDBOX}\n{code}\n{tests}\nprint('passed ' + 'all')\n"
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", program],
                cwd=folder, env={}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=2 * _TIME_S, check=False, preexec_fn=_limit,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0 and done.stdout.endswith("passed all\n")


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_TIME_S, _TIME_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
