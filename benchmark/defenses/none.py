"""No defence at all: no bottleneck, no noise. The first row of Tables 1 to 3."""

from benchmark.defenses import DEFENSES, Defense


@DEFENSES.register("none")
class NoDefense(Defense):
    """The unchanged cut network; the feature is the activation map at the cut, [128, 8, 8] for VGG11 at 32 px."""

    title = "No defence"

    @classmethod
    def model_options(cls, params):
        return {"bottleneck": None}
