"""Fields of OpenAI's and vLLM's requests that would change the answer and are not served: refused by name.

What stands in neither table and is no field of the requests is ignored, as OpenAI's own servers do with what other SDKs
add. docs/openai.md lists them all; its test compares.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.rest.bodies import Json
from mesh.errors import InvalidInput

# Field → the values that ask for nothing; any other is refused.
Table = Mapping[str, tuple[Json, ...]]

_BOTH: Table = {
    "allowed_token_ids": ([],),
    "best_of": (1,),
    "guided_whitespace_pattern": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}
CHAT: Table = {
    **_BOTH,
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "audio": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "web_search_options": (),
}
TEXT: Table = {**_BOTH, "add_special_tokens": (True,), "suffix": ("",)}


def refuse(body: Mapping[str, Json], table: Table) -> None:
    """Raise InvalidInput for the first field that asks for what is not served."""
    for name, harmless in table.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            raise InvalidInput(f"'{name}' is not served", field=name)
