"""The benchmark from Python: judge an encoder of your own, or look at the results.

>>> import benchmark, torch
>>> encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=4, padding=1), torch.nn.Sigmoid())
>>> found = benchmark.evaluate(
...     encoder,
...     dataset="photos",
...     channel=0.1,
...     settings={"attacks.decoder.epochs": 1, "attacks.decoder.blocks": 1},
...     train_images=24,
...     test_images=12,
...     data=data,
... )
>>> found.frame[["attacker", "split", "fitted_on", "scored_on"]]
  attacker  split  fitted_on  scored_on
0  decoder  train         24         12
>>> bool(0 < found.frame["mse"][0] < 1)
True
>>> found.pictures["decoder"].size  # the first 12 originals above what was rebuilt of them
(408, 68)
>>> print(found.summary.partition(":")[0])
photos, 24 images of the attacker's, 12 scored

The standard set, with the best attacker chosen on held-out images of the attackers:

>>> short = {"attacks.*.epochs": 1, "attacks.*.iterations": 1, "attacks.*.members": 1, "attacks.*.blocks": 1}
>>> found = benchmark.evaluate(
...     encoder, "photos", 0.1, attackers="standard", settings=short, train_images=24, test_images=12, data=data
... )
>>> list(found.frame["attacker"])
['decoder', 'ridge', 'kernel', 'converged', 'ssim_decoder', 'unet', 'unrolled', 'whitebox_standard', 'standard']
>>> best = found.frame.set_index("attacker").loc["standard", "chosen"].partition(",")[0]
>>> bool(found.frame.set_index("attacker")["mse_held_out"].idxmin() == best)
True
"""

from benchmark.api.evaluation import Evaluation, evaluate
from benchmark.api.stored import StoredEncoder, load_encoder, load_results

__all__ = ["Evaluation", "StoredEncoder", "evaluate", "load_encoder", "load_results"]
