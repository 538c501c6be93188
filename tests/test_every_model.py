"""Every registered model in each of its forms, at many sizes: it is here because it is registered.

A family's smallest model runs at every size in the form that it is released in, its others at two; a form that only
differs in its parameters runs at one.
"""

from __future__ import annotations

import copy
import importlib

import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import baselines  # noqa: F401
import overlock
from bench.models import MODELS
from tests.golden_tools import fill, image

SIZES = [(32, 32), (72, 72), (160, 192), (224, 224), (640, 384)]
LARGER_MODEL = [(72, 72), (160, 192)]
OTHER_FORM = [(160, 192)]


def seeded(model: nn.Module) -> nn.Module:
    """Small random weights in place of a long initialisation; running variances 1."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.fill_(1)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.05, 0.05, generator=generator)
    return model.eval()


FORMS = [(name, form) for name, entry in MODELS.items() for form in entry.family.forms]
SMALLEST = {entry.family.name: name for name, entry in reversed(MODELS.items())}
"""Family -> its first model."""


def sizes_of(name: str, form: str) -> list[tuple[int, int]]:
    family = MODELS[name].family
    if form != family.forms[0]:
        return OTHER_FORM
    return SIZES if name == SMALLEST[family.name] else LARGER_MODEL


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_runs_at_every_size(name: str, form: str) -> None:
    entry = MODELS[name]
    importlib.import_module(entry.family.network)
    with torch.device("meta"):
        model = timm.create_model(entry.name, **entry.family.structure[form])
    model = seeded(model.to_empty(device="cpu"))
    with torch.inference_mode():
        for size in sizes_of(name, form):
            x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
            logits = model(x)
            assert logits.shape == (1, 1000), size
            assert logits.isfinite().all(), size
            if size[0] >= 160:  # smaller images leave the last maps one or two positions
                assert logits.std() > 0, size


ONES = (1, 1, 1, 1)
TINY = {
    "overlock_xt": {"depth": ONES, "sub_depth": (2, 1), "dims": (8, 16, 16, 32), "sub_num_heads": (1, 2)},
    "unireplknet_a": {"depths": ONES, "widths": (8, 8, 16, 16), "kernel_sizes": ((3,), (13,), (13,), (13,))},
    "moganet_xt": {"depths": ONES, "widths": (8, 16, 16, 16)},
    "convnext_t": {"depths": ONES, "dims": (8, 8, 16, 16)},
}
"""A small one of each family."""


def a_step(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients and buffers after a training step."""
    torch.manual_seed(0)  # of stochastic depth and dropout
    out = model(x)
    sum(y.square().mean() for y in tree_leaves(out)).backward()
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    return gradients, dict(model.named_buffers())


@pytest.mark.parametrize("features_only", [False, True])
@pytest.mark.parametrize("name", TINY)
def test_checkpointed_training_is_plain_training(name: str, features_only: bool) -> None:
    """The same gradients, and the same buffers, in whatever layer of a block they are."""
    options = {"features_only": True} if features_only else {"drop_path_rate": 0.3, "num_classes": 3}
    plain = fill(timm.create_model(name, **TINY[name], **options)).train()
    if name != "convnext_t":  # timm's own checkpointing repeats every layer as it is after the forward
        block = next(m for m in plain.modules() if type(m).__name__.endswith("Block"))
        layer = next(m for m in block.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.shape[1] > 1)
        nn.utils.parametrizations.spectral_norm(layer)  # has buffers that its own forward reads and moves
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    x = image(1, (2, 3, 64, 64), torch.float32)
    (wanted, buffers), (gradients, kept) = a_step(plain, x), a_step(checkpointed, x)
    assert wanted.keys() == gradients.keys()
    assert [key for key, value in wanted.items() if not torch.equal(gradients[key], value)] == []
    assert [key for key, value in buffers.items() if not torch.equal(kept[key], value)] == []


@pytest.mark.parametrize("features_only", [False, True])
@pytest.mark.parametrize("name", [name for name in TINY if name != "convnext_t"])
def test_images_below_the_least_size_are_refused(name: str, features_only: bool) -> None:
    options = {"features_only": True} if features_only else {"num_classes": 3}
    model = timm.create_model(name, **TINY[name], **options).eval()
    for form in (model, *([] if name == "moganet_xt" else [overlock.deploy(model)])):
        with torch.inference_mode(), pytest.raises(ValueError, match="images of 31x40 pixels: the least is 32x32"):
            form(torch.zeros(1, 3, 31, 40))


WITH_INTERMEDIATES = [
    (name, form)
    for name in TINY
    for form in ("train", "deploy")
    if name != "convnext_t" and (name, form) != ("moganet_xt", "deploy")
]


def a_tiny(name: str, form: str) -> nn.Module:
    model = seeded(timm.create_model(name, **TINY[name], num_classes=3))
    return overlock.deploy(model) if form == "deploy" else model


@pytest.mark.parametrize(("name", "form"), WITH_INTERMEDIATES)
def test_intermediates(name: str, form: str) -> None:
    model, x = a_tiny(name, form), image(2, (1, 3, 64, 96), torch.float32)
    info = model.feature_info
    with torch.inference_mode():
        last, maps = model.forward_intermediates(x)
        kept = [m.clone() for m in maps]  # a later stage that works in place would show
        assert [m.shape for m in maps] == [(1, i["num_chs"], 64 // i["reduction"], 96 // i["reduction"]) for i in info]
        assert torch.equal(last, model.forward_features(x))
        assert torch.equal(last, maps[3])
        for indices, wanted, stop_early in ((2, [2, 3], True), ([0, -2], [0, 2], True), ((1,), [1], False)):
            end, some = model.forward_intermediates(x, indices, norm=True, stop_early=stop_early)
            assert [torch.equal(m, kept[i]) for m, i in zip(some, wanted, strict=True)] == [True] * len(wanted)
            assert torch.equal(end, kept[wanted[-1] if stop_early else 3])
    with pytest.raises(ValueError, match="output_fmt='NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")


@pytest.mark.parametrize("name", [name for name, form in WITH_INTERMEDIATES if form == "train"])
def test_intermediates_are_what_the_pyramid_norms(name: str) -> None:
    """The pyramid's own norms let everything pass here; those of MogaNet are the classifier's."""
    model, x = a_tiny(name, "train"), image(2, (1, 3, 64, 96), torch.float32)
    pyramid = timm.create_model(name, **TINY[name], features_only=True).eval()
    nn.Module.load_state_dict(pyramid, model.state_dict(), strict=False)
    with torch.inference_mode():
        for key in [key for key, _ in pyramid.named_children() if name != "moganet_xt" and "norm" in key]:
            norms = pyramid.get_submodule(key)
            setattr(pyramid, key, nn.ModuleList(nn.Identity() for _ in norms) if key == "extra_norm" else nn.Identity())
        maps = model.forward_intermediates(x, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(pyramid(x), maps, strict=True))


@pytest.mark.parametrize(("name", "form"), WITH_INTERMEDIATES)
def test_pruned_models_keep_their_maps(name: str, form: str) -> None:
    model, x = a_tiny(name, form), image(2, (1, 3, 64, 96), torch.float32)
    with torch.no_grad():  # a copy made in inference mode would run operator by operator
        maps = model.forward_intermediates(x, intermediates_only=True)
        for index in range(4):
            pruned = copy.deepcopy(model)
            assert pruned.prune_intermediate_layers([0, index - 4]) == [0, index]
            last, got = pruned.forward_intermediates(x, [0, index])
            assert all(torch.equal(a, maps[i]) for a, i in zip(got, sorted({0, index}), strict=True))
            assert torch.equal(last, maps[index])
            dropped = [name for names in model.stage_modules[index + 1 :] for name in names] + ["head", "aux_head"]
            assert not [key for key in pruned.state_dict() if key.startswith(tuple(f"{name}." for name in dropped))]
            pruned.reset_classifier(7, "avg")
            assert pruned.forward_head(pruned.forward_features(x)).shape == pruned(x).shape == (1, 7)
        assert model.prune_intermediate_layers([3], prune_head=False) == [3]
        assert model(x).shape == (1, 3)


def test_edges_of_a_deployed_model() -> None:
    model = overlock.deploy(timm.create_model("overlock_xt", **TINY["overlock_xt"]).eval())
    with pytest.raises(ValueError, match="an empty batch"):
        model(torch.zeros(0, 3, 32, 32))
    with pytest.raises(ValueError, match="gives no gradients of its images"):
        model(torch.zeros(1, 3, 32, 32, requires_grad=True))


OURS = [name for name in TINY if name != "convnext_t"]
POOLINGS = {"max": 1, "avgmax": 1, "catavgmax": 2, "fast": 1}


@pytest.mark.parametrize("pool", POOLINGS)
@pytest.mark.parametrize("name", OURS)
def test_pooling_and_dropout(name: str, pool: str) -> None:
    """As timm's arguments say, by the constructor and by `reset_classifier`."""
    if (name, pool) == ("unireplknet_a", "catavgmax"):
        with pytest.raises(ValueError, match="'catavgmax': the norm after the pooling"):
            timm.create_model(name, **TINY[name], global_pool=pool)
        return
    x = image(3, (2, 3, 64, 96), torch.float32)
    model = seeded(timm.create_model(name, **TINY[name], num_classes=3, global_pool=pool, drop_rate=0.5))
    with torch.inference_mode():
        features = model.forward_features(x)
        hidden = model.forward_head(features, pre_logits=True)
        assert hidden.shape == (2, model.head_hidden_size * POOLINGS[pool])
        logits = model(x)
        kept = {key: value.clone() for key, value in model.state_dict().items()}
        model.train()
        assert not torch.equal(model.forward_head(features), model.forward_head(features)), "dropout"
        other = seeded(timm.create_model(name, **TINY[name], num_classes=3))
        if pool != "fast":  # which is another way of averaging
            assert not torch.equal(other(x), logits)
        other.reset_classifier(3, pool)
        other.load_state_dict(kept)
        assert torch.equal(other(x), logits)


@pytest.mark.parametrize("name", OURS)
def test_without_pooling(name: str) -> None:
    x = image(3, (2, 3, 64, 96), torch.float32)
    model = timm.create_model(name, **TINY[name], num_classes=0, global_pool="").eval()
    with torch.inference_mode():
        assert model(x).shape == (2, model.head_hidden_size, 2, 3)
        model.reset_classifier(3, "avg")
        assert model(x).shape == (2, 3)
        if name != "overlock_xt":  # whose last layer is a convolution: logits of every position
            with pytest.raises(ValueError, match="a linear layer takes no map"):
                model.reset_classifier(4, "")
            assert model(x).shape == (2, 3)
    with pytest.raises(ValueError, match="global_pool='median': give one of 'avg'"):
        timm.create_model(name, **TINY[name], global_pool="median")


REFUSED = {
    "output_stride": "no dilated form: take an earlier map by features_only=True",
    "act_layer": "activations are those that the released weights",
    "norm_layer": "norms are those",
    "drop_rat": "did you mean drop_rate",
    "nonsense": "it takes .*num_classes",
}


@pytest.mark.parametrize("keyword", REFUSED)
@pytest.mark.parametrize("name", OURS)
def test_other_keywords_are_refused_by_name(name: str, keyword: str) -> None:
    for error in (ValueError, TypeError):
        for options in ({}, {"features_only": True}):
            with pytest.raises(error, match=f"{name} takes no {keyword}: .*{REFUSED[keyword]}"):
                timm.create_model(name, **options, **{keyword: 8})


def test_models_with_released_weights_are_listed() -> None:
    assert set(MODELS) <= {name.partition(".")[0] for name in timm.list_models(pretrained=True)}
    for name, entry in MODELS.items():
        released = entry.family.release(name)
        assert released is None or released.url.startswith("https://")
        if entry.family.name != "ConvNeXt":  # which timm fetches from its hub
            assert timm.get_pretrained_cfg(name).url == released.url


@pytest.mark.parametrize("name", OURS)
def test_parameters_without_weight_decay(name: str) -> None:
    """All but the weights of convolutions and linear layers; timm itself spares what has one axis."""
    model = timm.create_model(name, **TINY[name])
    spared = model.no_weight_decay()
    of = dict(model.named_parameters())
    assert spared <= of.keys()
    layers = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    decayed, kept = param_groups_weight_decay(model, 0.05, no_weight_decay_list=spared), set()
    for group in decayed:
        kept |= {id(p) for p in group["params"] if group["weight_decay"]}
    assert kept == layers


@pytest.mark.parametrize("form", ["train", "deploy", "pyramid"])
@pytest.mark.parametrize("name", OURS)
def test_graphs_of_fx(name: str, form: str) -> None:
    """Plain torch.fx, and torchvision's feature extractor, whose nodes are the blocks."""
    from torchvision.models.feature_extraction import create_feature_extractor

    if name == "moganet_xt" and form == "deploy":
        pytest.skip("it has no deploy form")
    model = (
        a_tiny(name, form) if form != "pyramid" else seeded(timm.create_model(name, **TINY[name], features_only=True))
    )
    x = image(2, (1, 3, 64, 96), torch.float32)
    with torch.inference_mode():
        wanted = tree_leaves(model(x))
        assert all(
            torch.equal(a, b) for a, b in zip(tree_leaves(torch.fx.symbolic_trace(model)(x)), wanted, strict=True)
        )
        if form == "train":  # torchvision calls train() on what it is given, which the others refuse
            stages = {info["module"]: str(i) for i, info in enumerate(model.feature_info)}
            maps = create_feature_extractor(model, stages)(x)
            last = model.forward_intermediates(x, intermediates_only=True)
            assert all(torch.equal(maps[str(i)], m) for i, m in enumerate(last))


@pytest.mark.parametrize("kind", ["getter", "hook", "fx"])
@pytest.mark.parametrize("name", OURS)
def test_timms_own_feature_extractors(name: str, kind: str) -> None:
    x = image(2, (1, 3, 64, 96), torch.float32)
    model = seeded(timm.create_model(name, **TINY[name], features_only=True, feature_cls=kind))
    with torch.inference_mode():
        shapes = [m.shape for m in model(x)]
    info = model.feature_info
    assert shapes == [(1, c, 64 // s, 96 // s) for c, s in zip(info.channels(), info.reduction(), strict=True)]


@pytest.mark.parametrize("features_only", [False, True])
@pytest.mark.parametrize("name", OURS)
def test_scripting_is_refused_with_the_way(name: str, features_only: bool) -> None:
    if name == "moganet_xt" and features_only:
        pytest.skip("timm's own class")
    model = timm.create_model(name, **TINY[name], features_only=features_only).eval()
    with pytest.raises(ValueError, match=r"torch.jit.script cannot compile .*: give torch.compile"):
        torch.jit.script(model)
