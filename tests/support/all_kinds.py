"""A catalog of text, images, speech and transcription by fake engines, for tests of pages that show all of them."""

from __future__ import annotations

CATALOG = """
[engines.quick]
kind = "fake"
model = "fake-1"
tokens = 16
delay_ms = 10

[engines.endless]
kind = "fake"
model = "fake-endless-1"
tokens = 3000
delay_ms = 20

[chat.quick]
input = "0.15"
output = "0.60"
context = 8192
max_output = 4096
image_tokens = { low = 85, high = 1_445 }
engines = ["quick"]

[chat.endless]
input = "0.15"
output = "0.60"
context = 8192
max_output = 4096
engines = ["endless"]

[image.painter]
price = "0.0015"
engines = ["quick"]

[speech.teller]
price = "15.00"
max_characters = 20_000
voice = "tone"
voices = [{ id = "tone", engine = "quick", language = "*", licence = "CC0-1.0" }]

[transcription.hearer]
price = "0.006"
translates = true
engines = ["quick"]
"""
