"""LLaMA (Touvron et al., 2023, arXiv 2302.13971) in Flax NNX, as one readable file.

A token is embedded; each layer adds an attention and a SwiGLU feed-forward, both on RMS-normalised input; a last norm and a
matrix turn the stream into logits. The layers are built under `nnx.vmap`, so that each weight carries a leading layer axis,
and run under `jax.lax.scan`: compile time does not grow with depth. For decoding, `apart` gives each layer arrays of its own.

The model is called in two ways, with the same weights and the same layer code:

- `model(tokens, positions, segment_ids)` for training: whole packed rows; a token attends to the earlier tokens of its own
  segment id and to nothing else. Positions restart in each context.
- `model.step(tokens, start, cache)` for decoding: a few tokens of each slot, with the keys and values of what came before in
  an explicit cache that is passed in and handed back. In decoding a token's position is its index in the cache's window.

Shape suffixes: B batch (rows or slots), T tokens of a row, C tokens of a step, W window (cache length), D model width,
H query heads, K key-value heads, G queries per key-value head (H = K·G), E head width,
F feed-forward width, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from retune_jax.errors import UserError
from retune_jax.models import attention, rope, sharding
from retune_jax.models.lora import LoraConfig, Projection

# Up to so many layers are compiled one by one, which is faster than a loop over them, and quick to compile still.
UNROLLED = 8

REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """The shape of a LLaMA-family model; the names of presets.py and of a weights folder's model.json.

    Attributes:
        vocab_size, layers, width, heads, kv_heads, head_width, hidden: sizes; `hidden` is the feed-forward's.
        rope_theta: the base of the rotary frequencies, always the model's own (10,000 in LLaMA 1 and 2).
        norm_epsilon: added to the mean square in RMSNorm.
        tied_embeddings: the output matrix is the transposed embedding.
        dtype, param_dtype: of the arithmetic, and of the stored base weights.
        rope_scaling: how the rotary frequencies are slowed, for models stretched to longer texts.
        sliding_window: tokens that a token of the pretrained model looks back at most, itself counted (Mistral). Contexts
            up to so long are the same with and without; longer ones are refused.
    """

    vocab_size: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    rope_theta: float
    norm_epsilon: float
    tied_embeddings: bool
    dtype: str
    param_dtype: str
    rope_scaling: rope.RopeScaling | None = None
    sliding_window: int | None = None

    def __post_init__(self):
        for name in ("vocab_size", "layers", "width", "heads", "kv_heads", "head_width", "hidden"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name}: {size!r} is not a positive whole number")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads: {self.heads} query heads do not divide among {self.kv_heads} key-value heads")
        if self.head_width % 2:
            raise ValueError(f"head_width: {self.head_width} is odd, and rotary positions turn pairs")

    def check_context(self, tokens: int):
        """Raises UserError where contexts of so many tokens would need the sliding window."""
        if self.sliding_window is not None and tokens > self.sliding_window:
            raise UserError(
                f"contexts of {tokens} tokens are longer than the model's sliding attention window of {self.sliding_window}: "
                "make config.data.context_length and config.decode.window at most that"
            )


class RMSNorm(nnx.Module):
    """x / rms(x) · scale, computed in float32."""

    def __init__(self, width: int, epsilon: float, *, param_dtype):
        self.scale = nnx.Param(jnp.ones((width,), param_dtype))
        self.epsilon = epsilon

    def __call__(self, x):
        """Maps [..., width] to the same shape and dtype."""
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.epsilon)
        return (normed * self.scale[...].astype(jnp.float32)).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: LlamaConfig, projection):
        width, inner, kv_inner = config.width, config.heads * config.head_width, config.kv_heads * config.head_width
        self.q = projection("q", width, inner)
        self.k = projection("k", width, kv_inner)
        self.v = projection("v", width, kv_inner)
        self.o = projection("o", inner, width)
        self.config = config

    def project(self, x_BxTxD, turns, keys):
        """Queries [B, T, K, G, E], keys and values [B, T, K, E], the first two rotated."""
        c = self.config
        batch, length, _ = x_BxTxD.shape
        q = self.q(x_BxTxD, keys[0]).reshape(batch, length, c.heads, c.head_width)
        k = self.k(x_BxTxD, keys[1]).reshape(batch, length, c.kv_heads, c.head_width)
        v = self.v(x_BxTxD, keys[2]).reshape(batch, length, c.kv_heads, c.head_width)
        q, k = rope.rotate(q, turns) * c.head_width**-0.5, rope.rotate(k, turns)
        return q.reshape(batch, length, c.kv_heads, c.heads // c.kv_heads, c.head_width), k, v

    def __call__(self, x_BxTxD, turns, attend, keys):
        """Attention of rows to themselves, by what `attention.over_rows` made for them."""
        with jax.named_scope("attention"):
            mixed = attend(*self.project(x_BxTxD, turns, keys))
            return self.o(mixed.reshape(*x_BxTxD.shape[:2], -1), keys[3])

    def step(self, x_BxCxD, start_B, turns, bias_BxCxW, cache):
        """Attention of C new tokens to the cache below `start` and to each other; returns the cache with them, too."""
        batch, count, _ = x_BxCxD.shape
        with jax.named_scope("attention"):
            q, k, v = self.project(x_BxCxD, turns, (None,) * 4)
        with jax.named_scope("write_cache"):
            k_BxKxExW = _write(cache[0], k.transpose(0, 2, 3, 1), start_B, axis=3)
            v_BxKxWxE = _write(cache[1], v.swapaxes(1, 2), start_B, axis=2)
        with jax.named_scope("attention"):
            q_BxKxRxE = q.transpose(0, 2, 3, 1, 4).reshape(batch, k.shape[2], -1, k.shape[-1])  # R = G·C, a row a query
            bias_Bx1xRxW = jnp.tile(bias_BxCxW, (1, q.shape[3], 1))[:, None]
            scores = jnp.einsum("bkre,bkew->bkrw", q_BxKxRxE, k_BxKxExW, preferred_element_type=jnp.float32) + bias_Bx1xRxW
            shares = jnp.exp(scores - scores.max(-1, keepdims=True))
            # What a softmax divides by comes last, where there is least to divide.
            mixed = jnp.einsum("bkrw,bkwe->bkre", shares.astype(v.dtype), v_BxKxWxE, preferred_element_type=jnp.float32)
            mixed = (mixed / shares.sum(-1, keepdims=True)).astype(v.dtype)
            mixed = mixed.reshape(batch, k.shape[2], -1, count, k.shape[-1]).transpose(0, 3, 1, 2, 4)
            return self.o(mixed.reshape(batch, count, -1)), (k_BxKxExW, v_BxKxWxE)


def _write(cached, fresh, start_B, axis: int):
    """The cache with each slot's fresh entries at its own start in the window, which is that axis; in place.

    One scatter with the slots as its batch: a `vmap` of updates would have XLA transpose, and so copy, the whole cache.
    """
    numbers = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(1, 2, 3),
        inserted_window_dims=(),
        scatter_dims_to_operand_dims=(axis,),
        operand_batching_dims=(0,),
        scatter_indices_batching_dims=(0,),
    )
    return jax.lax.scatter(
        cached,
        start_B[:, None],
        fresh,
        numbers,
        indices_are_sorted=True,
        unique_indices=True,
        mode="clip",
    )


class FeedForward(nnx.Module):
    """SwiGLU: down(silu(gate(x)) · up(x))."""

    def __init__(self, config: LlamaConfig, projection):
        self.gate = projection("gate", config.width, config.hidden)
        self.up = projection("up", config.width, config.hidden)
        self.down = projection("down", config.hidden, config.width)

    def __call__(self, x, keys):
        """Maps [..., D] to [..., D]."""
        with jax.named_scope("feed_forward"):
            return self.down(jax.nn.silu(self.gate(x, keys[0])) * self.up(x, keys[1]), keys[2])


class Layer(nnx.Module):
    """One transformer layer: attention and feed-forward, each added to the stream."""

    def __init__(self, config: LlamaConfig, lora: LoraConfig | None, quantize: str, rngs: nnx.Rngs):
        dtype, param_dtype = jnp.dtype(config.dtype), jnp.dtype(config.param_dtype)

        def projection(name, in_width, out_width):
            chosen = lora if lora is not None and name in lora.targets else None
            how = {"dtype": dtype, "param_dtype": param_dtype, "quantize": quantize}
            return Projection(in_width, out_width, chosen, **how, rngs=rngs)  # type: ignore[arg-type]

        self.attention_norm = RMSNorm(config.width, config.norm_epsilon, param_dtype=param_dtype)
        self.attention = Attention(config, projection)
        self.feed_forward_norm = RMSNorm(config.width, config.norm_epsilon, param_dtype=param_dtype)
        self.feed_forward = FeedForward(config, projection)

    def __call__(self, x_BxTxD, turns, attend, dropout_key):
        """The layer on whole rows."""
        keys = (None,) * 7 if dropout_key is None else jax.random.split(dropout_key, 7)
        x_BxTxD += self.attention(self.attention_norm(x_BxTxD), turns, attend, keys[:4])
        return x_BxTxD + self.feed_forward(self.feed_forward_norm(x_BxTxD), keys[4:])

    def step(self, x_BxCxD, start_B, turns, bias_BxCxW, cache):
        """The layer on new tokens, with a cache to read and to write."""
        mixed, cache = self.attention.step(self.attention_norm(x_BxCxD), start_B, turns, bias_BxCxW, cache)
        x_BxCxD += mixed
        return x_BxCxD + self.feed_forward(self.feed_forward_norm(x_BxCxD), (None,) * 3), cache


class Llama(nnx.Module):
    """A LLaMA-family language model, with LoRA adapters where `lora` asks for them."""

    def __init__(
        self,
        config: LlamaConfig,
        lora: LoraConfig | None,
        *,
        remat: str,
        rngs: nnx.Rngs,
        context_length: int | None = None,
        attention: str = "xla",
        quantize: str = "none",
    ):
        """Makes a model with random weights; under `nnx.eval_shape`, only its shapes.

        Args:
            config: the model's shape.
            lora: the adapters' shape, or None for a model without.
            remat: which of a layer's values the backward pass keeps: a name out of `REMAT_POLICIES`.
            rngs: the stream `params` draws the weights.
            context_length: a promise that no context of a packed row is longer, which makes attention by `xla` cheaper.
            attention: how packed rows attend: one of `attention.KINDS`.
            quantize: how the layers' kernels are held: one of `quantize.KINDS`.
        """
        param_dtype = jnp.dtype(config.param_dtype)
        table = jax.random.normal(rngs.params(), (config.vocab_size, config.width), param_dtype)
        self.embedding = nnx.Param(table * config.width**-0.5)

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stacked(rngs):
            return Layer(config, lora, quantize, rngs)

        self.layers = stacked(rngs)
        self.norm = RMSNorm(config.width, config.norm_epsilon, param_dtype=param_dtype)
        head = None
        if not config.tied_embeddings:
            head = jax.random.normal(rngs.params(), (config.width, config.vocab_size), param_dtype)
            head = nnx.Param(head * config.width**-0.5)
        self.head = nnx.data(head)
        self.config = config
        self.remat = remat
        self.unroll = config.layers <= UNROLLED
        self.context_length = context_length
        self.attention = attention

    @property
    def stacked(self) -> bool:
        """Whether a weight of all layers is one array, as rows need it; `step` takes either (`apart`)."""
        return not isinstance(self.layers, nnx.List)

    def embed(self, tokens):
        """Token ids [...] to the stream [..., D]."""
        return self.embedding[...].astype(self.config.dtype)[tokens]

    def turns(self, positions_BxT):
        """How queries and keys at these positions turn, in every layer: what `rope.rotate` takes."""
        c = self.config
        return rope.turns(positions_BxT, c.head_width, c.rope_theta, c.rope_scaling)

    def logits(self, x):
        """The stream [..., D] to float32 logits [..., V]."""
        with jax.named_scope("logits"):
            kernel = self.embedding[...].T if self.head is None else self.head[...]
            kernel = kernel.astype(self.config.dtype)
            rows = self.norm(x).reshape(-1, x.shape[-1])
            return jnp.matmul(rows, kernel, preferred_element_type=jnp.float32).reshape(*x.shape[:-1], -1)

    def __call__(self, tokens_BxT, positions_BxT, segment_ids_BxT, dropout_key=None):
        """Logits [B, T, V] of packed rows, with the arguments of `stream`."""
        return self.logits(self.stream(tokens_BxT, positions_BxT, segment_ids_BxT, dropout_key))

    def stream(self, tokens_BxT, positions_BxT, segment_ids_BxT, dropout_key=None):
        """Packed rows after the last layer, [B, T, D], as `logits` takes them, all at once or a part at a time.

        Args:
            tokens_BxT: int32 ids.
            positions_BxT: int32, restarting at 0 in each context.
            segment_ids_BxT: int32; attention stays within equal ids and never looks ahead.
            dropout_key: a PRNG key turns the adapters' dropout on.
        """
        self.config.check_context(self.context_length or tokens_BxT.shape[1])
        attend = attention.over_rows(self.attention, segment_ids_BxT, self.context_length)
        turns_BxTx1x2xE = self.turns(positions_BxT)
        graphdef, state = nnx.split(self.layers)

        def body(x, layer):
            state, key = layer
            return sharding.rows_apart(nnx.merge(graphdef, state)(x, turns_BxTx1x2xE, attend, key)), None

        if REMAT_POLICIES[self.remat] is not None:
            body = jax.checkpoint(body, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        keys = None if dropout_key is None else jax.random.split(dropout_key, self.config.layers)
        embedded_BxTxD = sharding.rows_apart(self.embed(tokens_BxT))
        x_BxTxD, _ = jax.lax.scan(body, embedded_BxTxD, (state, keys), unroll=self.unroll)
        return x_BxTxD

    def init_cache(self, batch: int, window: int):
        """An empty cache: of each layer keys [batch, kv_heads, head_width, window] and values [… window, head_width].

        An array a layer: a layer's part of a larger one would be copied before it is multiplied. A step multiplies with each
        head's keys and values as they lie, a contiguous block each: both products run along the last axis.
        """
        c = self.config
        c.check_context(window)
        heads, width = (batch, c.kv_heads), c.head_width
        keys, values = (*heads, width, window), (*heads, window, width)
        return tuple((jnp.zeros(keys, c.dtype), jnp.zeros(values, c.dtype)) for _ in range(c.layers))

    def step(self, tokens_BxC, start_B, cache):
        """Feeds C tokens a slot: returns logits [B, C, V] float32 and the cache with their keys and values written.

        Token c of slot b stands at position and window index start_B[b] + c and attends to the indices up to its own.
        Window indices past a slot's last fed token may hold anything: they are not attended before they are overwritten.
        start_B + C may not pass the window.
        """
        x_BxCxD, written = self.embed(tokens_BxC), []
        at_BxC = start_B[:, None] + jnp.arange(tokens_BxC.shape[1])
        turns_BxCx1x2xE = self.turns(at_BxC)
        bias_BxCxW = jnp.where(jnp.arange(cache[0][1].shape[2]) <= at_BxC[..., None], 0.0, -1e30).astype(jnp.float32)
        layers = _layers(self.layers, donate=False) if self.stacked else self.layers
        for layer, layer_cache in zip(layers, cache, strict=True):
            x_BxCxD, layer_cache = layer.step(x_BxCxD, start_B, turns_BxCx1x2xE, bias_BxCxW, layer_cache)
            written.append(layer_cache)
        return self.logits(x_BxCxD), tuple(written)


def apart(model: nnx.Module, *, donate: bool) -> nnx.Module:
    """A copy for decoding: each layer of the `Llama`s in it has arrays of its own, on the devices where its part lay.

    Where a compiled loop multiplies with a slice of a stacked weight, XLA may copy the slice first, in every turn. The other
    weights are shared with the model. With `donate` so are none of the layers': each array is deleted as soon as it is taken
    apart, and the model is of no use any more; without, the layers' weights are there twice until it is let go.
    """
    model = nnx.clone(model)
    for llama in stacked(model):
        llama.layers = _layers(llama.layers, donate)
    return model


def stacked(model: nnx.Module) -> list[Llama]:
    """The `Llama`s in a model, or the model itself, whose layers are not apart."""
    return [module for _, module in nnx.iter_graph(model) if isinstance(module, Llama) and module.stacked]


def _layers(stack: Layer, donate: bool) -> nnx.List:
    graphdef, state = nnx.split(stack)
    leaves, structure = jax.tree.flatten(state)
    columns = []
    for leaf in leaves:
        columns.append([leaf[number] for number in range(leaf.shape[0])])
        if donate:
            leaf.delete()
    return nnx.List([nnx.merge(graphdef, jax.tree.unflatten(structure, layer)) for layer in zip(*columns)])
