"""An encoder of tables: numbers, embedded categories and lists, concatenated, through a perceptron."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from mtl_lightning.architectures.base import Encoder
from mtl_lightning.architectures.columns import Bag, Columns
from mtl_lightning.architectures.encoders import perceptron_stages
from mtl_lightning.architectures.numbers import NumberKind
from mtl_lightning.architectures.sizes import check_widths
from mtl_lightning.types import ConfigurationError, InputSpec, TableSpec


class TabularEncoder(Encoder):
    """Tables to features (B, D): categorical columns and lists embedded, beside the numeric ones, then a perceptron.

    The columns and their numbers of codes come from the data's schema. Code 0, missing or unseen, has an embedding
    that starts at zero and is learned from the rows in which it occurs; where training had none of these, it adds
    nothing. A list is the mean or the sum of its elements' embeddings; code 0 is no element, and an empty list is
    zero. Columns that the schema lets share have one table of embeddings in common. Numeric columns come standardised
    from the data; nan, a missing number, becomes 0, the mean, or has a vector of its own where ``numbers`` embeds it.

    The first of its ``stages`` embeds and concatenates, each further one is a hidden layer. The embeddings are called
    ``*.embedding.<number>.weight``, for ``groups: {embeddings: ["*.embedding.*"]}``: numbered by column, categorical
    ones first, then lists; a shared table counts once, at its first column.

    Args:
        spec: the table's spec.
        hidden: the width of each layer; none gives the concatenated columns themselves.
        embedding: the width of the embeddings: a number for all columns, or one by the name of a column or a shared
            table; by default :func:`embedding_width` of the number of codes, for columns without an entry too.
        numbers: embeds each number as a vector (``numbers.py``): ``"linear"`` and ``"periodic"`` need nothing else,
            ``"piecewise"`` and ``"buckets"`` the training quantiles that the data's schema has; for all columns (those
            without quantiles, as vectors, stay numbers), or by column name. None, and columns without an entry, are
            the numbers themselves.
        number_width: the width of each of these vectors.
        frequencies: how many frequencies a periodic one has for each column.
        frequency_scale: the standard deviation of the normal distribution that these are drawn from, in cycles per
            unit of the numbers; the paper tunes it between 0.01 and 100.
        bag: how the embeddings of a list's elements are brought together: ``"mean"``, ``"sum"``, or one by column
            name, the mean for those without an entry.
        sparse: give the embeddings sparse gradients, so that an update costs what its rows cost, however many codes
            there are. They need an optimizer that takes these, ``SparseAdam`` in a group of their own (``groups:
            {embeddings: ["*.embedding.*"]}``), ``SGD`` or ``Adagrad``, a balancer of losses, and no
            clipping.
        standardize: standardise the numeric columns here (:class:`Standardize`), for data that does not.
        activation: makes each layer's activation: a class, or a function without arguments.
        dropout: the probability with which a hidden unit is zeroed in training.
        norm: makes the normalisation of each layer from its width, such as ``BatchNorm``; none by default.

    Raises:
        ConfigurationError: if the spec is of another kind or has no columns, a width is below 1, ``embedding`` names
            no categorical column, list or shared table, ``bag`` no list, columns that share embeddings differ in their
            width, or there are no quantiles where ``numbers`` needs them.
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        hidden: Sequence[int] = (128, 64),
        embedding: int | dict[str, int] | None = None,
        numbers: NumberKind | dict[str, NumberKind] | None = None,
        number_width: int = 8,
        frequencies: int = 16,
        frequency_scale: float = 0.1,
        bag: Bag | dict[str, Bag] = "mean",
        sparse: bool = False,
        standardize: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(spec, TableSpec) or not (spec.numeric or spec.categorical or spec.lists):
            raise ConfigurationError(
                f"TabularEncoder takes tables (a TableSpec with columns), found {spec!r}; use MLP for vectors."
            )
        columns = Columns(
            spec, embedding, standardize, bag, numbers, number_width, frequencies, frequency_scale, sparse
        )
        widths = (columns.width, *check_widths("`hidden`", hidden))
        layers = perceptron_stages(widths, activation, dropout, norm)
        self.stages = nn.Sequential(columns, *(nn.Sequential(*layer) for layer in layers))
        self.out_features = (widths[-1],)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Map ``numeric`` (B, Dn), ``categorical`` (B, Dc) and any ``lists`` (B, L) to features (B, D)."""
        features: Tensor = self.stages(inputs)
        return features
