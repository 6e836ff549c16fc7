"""Whether an attack's columns mean what their split says; with quirk q14 the GAN's do not."""

from benchmark.matrix.cells import Job

METRIC = "column_as_named"  # in the tidy frame: 1 if fitted and scored as the split says, 0 with quirk q14
NOTE = (
    "most likely, not known to be, what the printed column is (quirk q14, docs/PROTOCOLS.md): one fit, on the training "
    "images; train is its error on its own last epoch's batches, infer that on the whole test set"
)


def as_named(job: Job) -> bool:
    return not job.config["quirks"].get("q14_gan_single_fit")
