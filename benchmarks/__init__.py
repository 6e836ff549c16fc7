"""How fast the steps are on the machine at hand, beside plain scripts that do the same: `benchmark measure speed`."""
