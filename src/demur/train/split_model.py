"""A decoder trained in its upper blocks only, over states of the lower ones that are computed once.

Half of a small model's training time goes into blocks that do not change, and a third of a short prompt is the
template's own beginning, the same for every row. Both are computed once: lower states are kept in memory, and the
beginning goes through the upper blocks once a step, its keys and values shared by the rows of the batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from demur.core.errors import BadInputError
from demur.train.token_rows import TokenRow

BATCH_TOKENS = 2048
TOLERANCE = 1e-3


def decoder_of(model: Any) -> Any:
    """The part of a causal language model that holds the blocks in `.layers`.

    Raises:
        BadInputError: It has none, e.g. a model with its own names for them.
    """
    inner = model.get_decoder() if hasattr(model, "get_decoder") else None
    if inner is None or not hasattr(inner, "layers") or not hasattr(inner, "norm"):
        raise BadInputError(
            f"{type(model).__name__}: expected decoder blocks in .layers and a final .norm; set first_block = 0"
        )
    return inner


@contextmanager
def only_blocks(decoder: Any, first: int, last: int) -> Iterator[None]:
    """Let a decoder consist of blocks `first` to `last` - 1 while inside; the final norm belongs to the last block."""
    import torch

    blocks, norm, n_blocks = decoder.layers, decoder.norm, decoder.config.num_hidden_layers
    kept = list(blocks)[first:last]
    numbers = [block.self_attn.layer_idx for block in kept]
    decoder.layers = torch.nn.ModuleList(kept)
    decoder.config.num_hidden_layers = len(kept)
    if last < len(blocks):
        decoder.norm = torch.nn.Identity()
    for number, block in enumerate(kept):  # caches are indexed by this
        block.self_attn.layer_idx = number
    try:
        yield
    finally:
        for block, number in zip(kept, numbers, strict=True):
            block.self_attn.layer_idx = number
        decoder.layers, decoder.norm, decoder.config.num_hidden_layers = blocks, norm, n_blocks


def after_prefix(decoder: Any, prefix: Any, states: Sequence[Any]) -> tuple[Any, list[int]]:
    """Run rows through the decoder after a shared beginning.

    Args:
        decoder: The blocks to run.
        prefix: Embeddings or states of the beginning; (n_prefix, d_model).
        states: The same for each row's continuation; (n_tokens, d_model) each.

    Returns:
        Output states, right-padded, (n_rows, longest, d_model), and the length of each row.
    """
    import torch
    from transformers import DynamicCache

    lengths = [len(row) for row in states]
    width = max(lengths)
    values = states[0].new_zeros((len(states), width, prefix.shape[-1]))
    mask = torch.zeros((len(states), len(prefix) + width), dtype=torch.long)
    mask[:, : len(prefix)] = 1
    for number, row in enumerate(states):
        values[number, : len(row)] = row
        mask[number, len(prefix) : len(prefix) + len(row)] = 1
    cache = DynamicCache()
    if len(prefix):
        decoder(inputs_embeds=prefix[None], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(states))
    output = decoder(inputs_embeds=values, attention_mask=mask.to(values.device), past_key_values=cache, use_cache=True)
    return output.last_hidden_state, lengths


def batches_by_length(lengths: Sequence[int], *, tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Row numbers in batches of like length, at most `tokens` padded tokens each."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def embedded(model: Any, ids: Sequence[int]) -> Any:
    """Input embeddings of ids; (n_ids, d_model)."""
    import torch

    return model.get_input_embeddings()(torch.tensor(list(ids), dtype=torch.long, device=model.device))


def continuation(row: TokenRow, n_prefix: int, control_ids: Sequence[int]) -> tuple[int, ...]:
    """Ids after the shared beginning: the rest of the prompt and, where there is a reply, token and reply."""
    rest = row.prompt[n_prefix:]
    # The last token is only ever a target.
    return (*rest, control_ids[row.column], *row.reply[:-1]) if row.reply else rest


def states_of(
    model: Any, sequences: Sequence[Sequence[int]], prefix: Sequence[int], *, last_block: int | None, progress: Any
) -> tuple[Any, list[Any]]:
    """States after the first blocks, for a shared beginning and for each row's continuation.

    Args:
        model: A causal language model in evaluation mode.
        sequences: Ids of each row after the beginning.
        prefix: Ids of the beginning.
        last_block: Blocks to run; None = all of them and the final norm, and only each row's last state is kept.
        progress: Called with (rows done, rows).

    Returns:
        States of the beginning, (n_prefix, d_model), and of each row, (n_tokens, d_model) in half precision,
        or (d_model,) in single precision where only the last is kept; in the processor's memory.
    """
    import torch

    decoder = decoder_of(model)
    lengths = [len(ids) for ids in sequences]
    # One table for all rows: kept between a batch's passing tensors, each row would pin the memory around it.
    found = _table(model, lengths, whole=last_block is not None)
    done = 0
    with torch.inference_mode(), only_blocks(decoder, 0, last_block or len(decoder.layers)):
        beginning = embedded(model, prefix)
        for batch in batches_by_length(lengths):
            output, _ = after_prefix(decoder, beginning, [embedded(model, sequences[i]) for i in batch])
            for place, number in enumerate(batch):
                row = output[place, : lengths[number]]
                found[number].copy_(row if last_block is not None else row[-1])
            done += len(batch)
            progress(done, len(sequences))
        shared = decoder(inputs_embeds=beginning[None]).last_hidden_state[0].clone() if len(prefix) else beginning
    # A tensor made in inference mode cannot enter a training step.
    return torch.tensor(shared.cpu().numpy()), found


def _table(model: Any, lengths: Sequence[int], *, whole: bool) -> list[Any]:
    """Each row's room in one table of states."""
    import torch

    width = model.get_input_embeddings().weight.shape[1]
    if not whole:
        table = torch.empty((len(lengths), width), dtype=torch.float32)
        return list(table)
    table = torch.empty((sum(lengths), width), dtype=torch.float16)
    return list(table.split(list(lengths)))


def splits_exactly(model: Any, row: TokenRow, n_prefix: int, first_block: int) -> bool:
    """Whether running the model in two parts gives the states of running it whole, on one row."""
    import torch

    decoder = decoder_of(model)
    ids = torch.tensor([list(row.prompt)], dtype=torch.long)
    with torch.inference_mode():
        whole = decoder(input_ids=ids).last_hidden_state[0, -1]
        with only_blocks(decoder, 0, first_block):
            beginning = decoder(inputs_embeds=embedded(model, row.prompt[:n_prefix])[None]).last_hidden_state[0]
            rest, _ = after_prefix(
                decoder, embedded(model, row.prompt[:n_prefix]), [embedded(model, row.prompt[n_prefix:])]
            )
        with only_blocks(decoder, first_block, len(decoder.layers)):
            split, _ = after_prefix(decoder, beginning, [rest[0]])
    return bool((whole - split[0, -1]).abs().max() <= TOLERANCE * whole.abs().max())
