"""Decide which fields of a request may reach an engine: none that could undo the limit that the caller pays for.

The limit is held and forced under one name. An engine that knows it under another one, too, might follow that instead:
llama.cpp reads `n_predict` before `max_tokens`. So no spelling of it is sent on, wherever an engine may look for it.
"""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]

#: How many tokens an answer has at most or at least, and how many answers there are; written as `_folded` does.
_LIMITS = frozenset(
    """maxtokens maxcompletiontokens maxoutputtokens maxnewtokens maxnewtoken automaxnewtokens maxtoken maxtokencount
    maxlength maxlen maxgenlen maxgentoks maxgeneratedtokens maxgenerationtokens maxgeneratetokens maxgenerationlength
    maxresponsetokens maxresponselength maxcompletionlength maxanswertokens maxdecodelen maxdecodesteps maxpredict
    maxtokenstosample maxtokenstogenerate maxtotaltokens maxseqlen npredict ntokens numpredict numtokens
    numtokenstogenerate tokenstogenerate genamt outputlen outputlength
    mintokens mincompletiontokens minoutputtokens minnewtokens minlength minlen ignoreeos baneostoken
    ncmpl bestof candidatecount numresults numcompletions numgenerations numreturnsequences numsamples""".split()  # noqa: SIM905
)
#: Fields that are set here, or counted in what a request may cost, under this very name and no other.
_BOUND = frozenset(
    ("model", "messages", "prompt", "input", "stream", "stream_options", "n", "tools", "functions", "response_format")
)
_FOLDED_BOUND = frozenset(name.replace("_", "") for name in _BOUND)
#: Objects whose fields some engines and gateways take as if they stood beside them.
_CONTAINERS = frozenset(
    """extrabody extra extraargs extraparams extraparameters additionalparams additionalparameters
    additionalmodelrequestfields body config customparams generationargs generationconfig generationkwargs
    generationoptions generationparams generationparameters inferenceconfig inferenceparams inferenceparameters kwargs
    litellmparams modelkwargs modeloptions modelparams modelparameters nvext optionalparams options overrides
    parameters params provideroptions providerparams samplingconfig samplingparams samplingparameters
    textgenerationconfig vllmxargs""".split()  # noqa: SIM905
)
#: Containers inside each other; a deeper one is left out.
_DEEPEST = 8


def forwarded(fields: Fields) -> Fields:
    """Copy what may be sent on of the caller's own fields."""
    found: Fields = {}
    for name, value in fields.items():
        folded = _folded(name)
        if folded in _LIMITS or (folded in _FOLDED_BOUND and name not in _BOUND):
            continue
        found[name] = _cleaned(value, 1) if folded in _CONTAINERS else value
    return found


def _cleaned(value: Any, depth: int) -> Any:
    """A container without the fields that would take the place of ours."""
    if not isinstance(value, dict):
        return value
    found: Fields = {}
    for name, inner in value.items():
        folded = _folded(name)
        if folded in _LIMITS or folded in _FOLDED_BOUND:
            continue
        if folded not in _CONTAINERS:
            found[name] = inner
        elif depth < _DEEPEST:
            found[name] = _cleaned(inner, depth + 1)
    return found


def _folded(name: str) -> str:
    """The name without what some engines do not look at: servers in Go take `Max_Tokens` for `max_tokens`."""
    return name.casefold().replace("_", "").replace("-", "")
