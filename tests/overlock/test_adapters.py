"""LoRA fine-tuning by peft of the smallest OverLoCK on real images: it learns, and folds once it is merged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import overlock

LAYERS = r".*\.(proj\.[48]|fusion\.3|gate\.0|mlp\.[04]|dyconv_proj\.0)"  # of docs/training.md: the 1x1 convolutions


@pytest.mark.slow
def test_lora_learns_digits_is_saved_and_is_deployed_when_merged(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    digits = load_digits(n_class=3)
    x = F.interpolate(torch.from_numpy(digits.images[:48, None].astype(np.float32) / 16), (32, 32)).expand(
        -1, 3, -1, -1
    )
    y = torch.from_numpy(digits.target[:48])
    model = timm.create_model("overlock_xt", num_classes=3)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    before = {name: start[name] for name, _ in model.named_parameters()}
    config = peft.LoraConfig(r=8, target_modules=LAYERS, modules_to_save=["head.4"])
    lora = peft.get_peft_model(model, config)
    trained = [p for p in lora.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) < 0.05 * sum(p.numel() for p in lora.parameters())
    optimiser = torch.optim.AdamW(trained, lr=5e-3)
    lora.train()
    for module in lora.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # an adapter's file has no averages
    losses = []
    for step in range(24):
        taken = torch.randperm(len(x), generator=torch.Generator().manual_seed(step))[:24]
        loss = F.cross_entropy(lora(x[taken]), y[taken])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4]), losses
    lora.eval()
    lora.save_pretrained(tmp_path)
    again = timm.create_model("overlock_xt", num_classes=3)
    again.load_state_dict(start)
    with torch.inference_mode():
        wanted = lora(x[:8])
        torch.testing.assert_close(peft.PeftModel.from_pretrained(again, tmp_path).eval()(x[:8]), wanted)
        with pytest.raises(ValueError, match="merge adapters"):
            overlock.deploy(lora.base_model.model)
        merged = lora.merge_and_unload().eval()
        torch.testing.assert_close(merged(x[:8]), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(overlock.deploy(merged)(x[:8]), wanted, rtol=1e-3, atol=1e-4)
    frozen = [name for name, value in merged.named_parameters() if torch.equal(value, before[name])]
    assert len(frozen) > 0.8 * len(before), "only adapted layers and the last one have moved"
