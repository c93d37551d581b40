"""The renderer of a model by name, for the commands that look at data; without torch where that can be."""

from typing import TYPE_CHECKING

from tunesmith.cli.terminal import loading_libraries

if TYPE_CHECKING:
    from tunesmith.data.render import Renderer


def renderer_of(model: str, template: str = "auto") -> "Renderer":
    """Tokenizer and template of `model`.

    Args:
        model: as `train --model` takes it.
        template: `auto`, `instruction`, or the path of a Jinja file.

    Raises:
        ModelError: if there is no such model or its tokenizer cannot be loaded.
        TemplateError: if the template cannot be used with it.
    """
    with loading_libraries():
        from tunesmith.data.render import make_renderer
        from tunesmith.models.find import find_model
        from tunesmith.models.tokenizer import load_tokenizer

    return make_renderer(load_tokenizer(find_model(model)), template)
