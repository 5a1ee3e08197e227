"""Observations as vectors: pictures against a convolution by loops, other arrays by value, errors in words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from tests import toys

KEY = jax.random.key(0)


def convolved(picture, kernel, bias):
    """relu of a 3 × 3 convolution with stride 2 and zeros beyond the edges, as TensorFlow's "SAME" places them."""
    height, width, channels = picture.shape
    out = np.zeros((-(-height // 2), -(-width // 2), len(bias)))
    top, left = (max(2 * (n - 1) + 3 - size, 0) // 2 for n, size in zip(out.shape[:2], picture.shape[:2], strict=True))
    weight = np.asarray(kernel, np.float64).reshape(3, 3, channels, -1)
    for row, column in np.ndindex(*out.shape[:2]):
        total = np.array(bias, np.float64)
        for i, j in np.ndindex(3, 3):
            y, x = 2 * row + i - top, 2 * column + j - left
            if 0 <= y < height and 0 <= x < width:
                total += picture[y, x] @ weight[i, j]
        out[row, column] = np.maximum(total, 0)
    return out


@pytest.mark.parametrize("shape", [(8, 8, 2), (5, 6, 1), (1, 3, 3)])
def test_a_picture_passes_two_convolutions(shape):
    """Each against loops in NumPy, with biases that are not 0; the first axis is a batch."""
    encode = mrl.policies.encoder(shape, (2, 3))
    params = jax.tree.map(lambda leaf: leaf + 0.1, encode.init(KEY))
    pictures = np.random.default_rng(0).normal(size=(2, *shape))
    expected = []
    for picture in pictures:
        for layer in params["pictures"][0]:
            picture = convolved(picture, layer["kernel"], layer["bias"])
        expected.append(picture.ravel())
    assert expected[0].shape == (encode.size,)
    actual = jax.jit(encode.apply)(params, pictures)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(actual) > 0.1


def test_gradients_are_those_of_a_convolution():
    """First and second derivatives against XLA's own convolution."""
    encode = mrl.policies.encoder((5, 6, 2), (3,))
    params, picture = encode.init(KEY), jax.random.normal(KEY, (5, 6, 2))

    def reference(params, picture):
        kernel = params["pictures"][0][0]["kernel"].reshape(3, 3, 2, 3)
        how = {"window_strides": (2, 2), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        out = jax.lax.conv_general_dilated(picture[None], kernel, precision="highest", **how)
        return jax.nn.relu(out + params["pictures"][0][0]["bias"]).ravel()

    @jax.jit
    def derivatives(params):
        def of(read):
            def loss(params, picture):
                return jnp.sin(read(params, picture)).sum()

            def squared(params):
                return sum((leaf**2).sum() for leaf in jax.tree.leaves(jax.grad(loss, (0, 1))(params, picture)))

            return loss(params, picture), jax.grad(loss, (0, 1))(params, picture), jax.grad(squared)(params)

        return of(encode.apply), of(reference)

    ours, xlas = derivatives(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, xlas)


def test_bytes_are_scaled_and_other_numbers_are_not():
    """[8-bit picture] = [the same / 255 as floats]; 8-bit vectors, integers and booleans are their values."""
    shapes = {"eye": (4, 4, 1), "ints": (2,), "map": (2, 2), "flag": ()}
    encode = mrl.policies.encoder(shapes, ())
    picture = np.random.default_rng(0).integers(256, size=(4, 4, 1))
    others = {"ints": jnp.array([-3, 200]), "map": jnp.array([[True, False], [False, True]]), "flag": True}
    encoded = encode.apply({}, {"eye": jnp.asarray(picture, jnp.uint8), **others})
    # in JAX's order: eye, flag, ints, map
    expected = np.concatenate([picture.ravel() / 255, [1, -3, 200, 1, 0, 0, 1]])
    np.testing.assert_allclose(encoded, expected, rtol=1e-6)
    np.testing.assert_array_equal(encode.apply({}, {"eye": picture, **others})[:16], picture.ravel())
    assert mrl.policies.encoder((3,)).apply({}, jnp.array([255, 0, 1], jnp.uint8)).tolist() == [255, 0, 1]
    learned = mrl.policies.encoder(shapes)
    scaled, given = (
        learned.apply(learned.init(KEY), {"eye": eye, **others})
        for eye in (jnp.asarray(picture, jnp.uint8), jnp.asarray(picture, float) / 255)
    )
    np.testing.assert_allclose(scaled, given, rtol=1e-6)


def test_every_picture_has_convolutions_of_its_own():
    encode = mrl.policies.encoder({"left": (4, 4, 1), "right": (4, 4, 3)})
    left, right = encode.init(KEY)["pictures"]
    assert [layer["kernel"].shape for layer in left] == [(9, 16), (9 * 16, 32)]
    assert [layer["kernel"].shape for layer in right] == [(27, 16), (9 * 16, 32)]
    assert (left[1]["kernel"] != right[1]["kernel"]).any()
    assert encode.size == 2 * 32


def test_a_vector_has_no_parameters_and_is_read_as_it_is():
    """So the networks of vector environments are what they were, parameter by parameter."""
    encode = mrl.policies.encoder(3)
    assert (encode.size, encode.init(KEY)) == (3, {})
    batch = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(encode.apply({}, batch), batch)
    np.testing.assert_array_equal(
        encode.apply({}, {"b": batch[0, 0, :1], "a": batch[0, 0, 1:]}), batch[0, 0, [1, 2, 0]]
    )
    params = mrl.policies.mlp(toys.walk(), hidden=(4,)).init(KEY)
    assert set(params) == {"network", "log_std"}
    assert set(mrl.inner.value_network(3, 5, hidden=(4,)).init(KEY)) == {"Dense_0", "Dense_1"}


def test_what_an_inner_loop_moves_keeps_its_meaning():
    """The head is the last layer; the convolutions are of the body; a context enters after them."""
    policy = mrl.policies.mlp(toys.dot("dictionary"), hidden=(4,), context_size=3, channels=(2,))
    params = policy.init(KEY)
    labels = policy.labels(params)
    assert jax.tree.structure(labels) == jax.tree.structure(params)
    assert set(jax.tree.leaves(labels["pictures"])) == {"body"}
    assert labels["network"]["Dense_1"] == {"kernel": "head", "bias": "head"}
    assert (labels["context"], labels["log_std"]) == ("context", "std")
    assert params["network"]["Dense_0"]["kernel"].shape == (4 * 4 * 2 + 2 + 3, 4)
    observation = {"picture": jnp.full((8, 8, 1), 9, jnp.uint8), "velocity": jnp.ones(2)}
    there = policy.apply(params, observation).mean
    moved = policy.apply(params | {"context": jnp.ones(3)}, observation).mean
    assert (moved != there).all()


ERRORS = {
    "no picture": (
        lambda: mrl.policies.encoder((3, 3), (4,)),
        r"channels is \(4,\), for convolutions, and .* no picture",
    ),
    "a vector with channels": (lambda: mrl.policies.mlp(toys.walk(), channels=(4,)), "holds no picture"),
    "channels as a number": (lambda: mrl.policies.encoder((3, 3, 1), 4), r"channels is 4; .* such as \(64, 64\)"),
    "no channels in a layer": (lambda: mrl.policies.encoder((3, 3, 1), (0,)), "channels is 0; .*at least 1"),
    "four axes": (
        lambda: mrl.policies.encoder({"film": (9, 8, 8, 1)}),
        r"observation\['film'\] has shape \(9, 8, 8, 1\)",
    ),
    "another shape": (
        lambda: mrl.policies.encoder((4, 4, 1)).apply({}, jnp.zeros((4, 5, 1))),
        r"is one array of shape \(4, 5, 1\), and this network was made for one array of shape \(4, 4, 1\)",
    ),
    "another tree": (
        lambda: mrl.policies.encoder({"eye": (4, 4, 1)}).apply({}, {"ear": jnp.zeros(3)}),
        r"is \{'ear': \(3,\)\}, and this network was made for \{'eye': \(4, 4, 1\)\}",
    ),
    "another vector": (
        lambda: mrl.policies.encoder(3).apply({}, jnp.zeros((2, 2))),
        r"of shape \(2, 2\), and .* for one array of shape \(3,\); .*observation_shape",
    ),
    "a picture to a memory without channels": (
        lambda: mrl.policies.gru(toys.dot("picture"), channels=0.5),
        "channels is 0.5",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_in_words(case):
    call, words = ERRORS[case]
    with pytest.raises(ValueError, match=words):
        call()
