"""Prompts that a member saves in the playground: list, rename, edit, use again and delete them."""

from __future__ import annotations

from starlette.responses import Response

from minitoolai.portal.names import is_visible
from minitoolai.portal.pages.studio.playground import TABS
from minitoolai.portal.request import PageRequest, restore_draft
from minitoolai.portal.routing import Handler, form, not_found, page
from minitoolai.storage.tables import saved_prompts
from minitoolai.storage.tables.saved_prompts import SavedPrompt

MAX_PROMPTS = 50
MAX_NAME_LENGTH = 80
#: Longest instructions and longest message, in characters.
MAX_TEXT_LENGTH = 8_000
#: Fields of the chat form that are kept with a prompt, and the longest of their values.
SETTINGS = ("temperature", "limit", "top_p", "seed")
MAX_SETTING_LENGTH = 20
FIELDS = ("prompt_name", "model", "developer", "message", *SETTINGS)


async def find_prompt(page: PageRequest, number: str) -> SavedPrompt | None:
    """Return the member's prompt with this number, or None."""
    if not (number.isascii() and number.isdigit() and len(number) <= 19):
        return None
    member = page.member
    return await page.site.database.read_async(saved_prompts.find, member.account_id, member.user_id, int(number))


def fill_form(page: PageRequest, prompt: SavedPrompt) -> None:
    """Fill the fields with a prompt."""
    page.form.values |= {
        "prompt_name": prompt.name, "model": prompt.model, "developer": prompt.instructions, "message": prompt.message,
        **{name: value for name, value in prompt.settings.items() if name in SETTINGS},
    }  # fmt: skip


def read_prompt(page: PageRequest, prompt_id: int) -> SavedPrompt:
    """Return the prompt in the form, or record the error of a field."""
    name = page.form["prompt_name"]
    if not is_visible(name):
        page.form.add_error("prompt_name", page.gettext("Give it a name."))
    for field, text, most in (
        ("prompt_name", name, MAX_NAME_LENGTH),
        ("developer", page.form["developer"], MAX_TEXT_LENGTH),
        ("message", page.form["message"], MAX_TEXT_LENGTH),
    ):
        if len(text) > most:
            message = page.ngettext("It has at most %(num)d character.", "It has at most %(num)d characters.", most)
            page.form.add_error(field, message % {"num": most})
    if not page.form["message"] and not page.form["developer"]:
        page.form.add_error("message", page.gettext("Write a message or instructions."))
    settings = {name: page.form[name][:MAX_SETTING_LENGTH] for name in SETTINGS if page.form[name]}
    return SavedPrompt(
        prompt_id, name, page.form["model"][:200], page.form["developer"], page.form["message"], settings,
        page.site.clock.now_ms(),
    )  # fmt: skip


@page("/studio/prompts", access="user", action="use")
async def prompts(page: PageRequest) -> Response:
    """List the member's prompts."""
    restore_draft(page, "/studio/prompts")
    return await _render(page)


async def _render(page: PageRequest, status: int = 200) -> Response:
    member = page.member
    rows = await page.site.database.read_async(saved_prompts.of_member, member.account_id, member.user_id)
    return page.render(
        "studio/prompts.html", status, places=TABS, prompts=rows, most=MAX_PROMPTS, models=list(page.catalog.chat),
        longest=MAX_TEXT_LENGTH,
    )  # fmt: skip


@form("/studio/prompts", access="user", action="use", draft_fields=FIELDS)
async def save_new(page: PageRequest) -> Response:
    """Save a new prompt, from the chat page or from the list."""
    prompt = read_prompt(page, page.site.clock.new_id())
    if not page.form.is_valid:
        return await _render(page, 422)
    member = page.member
    is_saved = await page.site.writer.run(
        lambda c: saved_prompts.insert(c, member.account_id, member.user_id, prompt, MAX_PROMPTS)
    )
    if not is_saved:
        message = page.gettext("You have %(num)s saved prompts, which is the most. Delete one first.")
        page.form.add_error("", message % {"num": MAX_PROMPTS})
        return await _render(page, 422)
    return page.redirect(f"/studio?prompt={prompt.id}", flash=page.gettext("The prompt is saved."))


@page("/studio/prompts/{prompt}", access="user", action="use")
async def edit(page: PageRequest) -> Response:
    """Show a prompt in a form."""
    prompt = await find_prompt(page, page.path_params["prompt"])
    if prompt is None:
        return not_found(page)
    fill_form(page, prompt)
    restore_draft(page, page.path)
    return _edit_page(page, prompt)


def _edit_page(page: PageRequest, prompt: SavedPrompt, status: int = 200) -> Response:
    return page.render(
        "studio/prompt.html", status, places=TABS, prompt=prompt, models=list(page.catalog.chat),
        longest=MAX_TEXT_LENGTH,
    )  # fmt: skip


@form("/studio/prompts/{prompt}", access="user", action="use", draft_fields=FIELDS)
async def save(page: PageRequest) -> Response:
    """Change a prompt."""
    found = await find_prompt(page, page.path_params["prompt"])
    if found is None:
        return not_found(page)
    prompt = read_prompt(page, found.id)
    if not page.form.is_valid:
        return _edit_page(page, found, 422)
    member = page.member
    if not await page.site.writer.run(lambda c: saved_prompts.update(c, member.account_id, member.user_id, prompt)):
        return not_found(page)
    return page.redirect("/studio/prompts", flash=page.gettext("The prompt is saved."))


@form("/studio/prompts/{prompt}/delete", access="user", action="use")
async def delete(page: PageRequest) -> Response:
    """Delete a prompt."""
    found = await find_prompt(page, page.path_params["prompt"])
    if found is None:
        return not_found(page)
    member = page.member
    await page.site.writer.run(lambda c: saved_prompts.delete(c, member.account_id, member.user_id, found.id))
    return page.redirect("/studio/prompts", flash=page.gettext("The prompt was deleted."))


HANDLERS: list[Handler] = [prompts, save_new, edit, save, delete]
