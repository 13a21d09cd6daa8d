"""What every test shares: how Hypothesis searches here."""

from hypothesis import settings

# How long an example takes depends on the machine and its neighbours, so time is no property to test.
settings.register_profile("chainrule", deadline=None, print_blob=True)
settings.load_profile("chainrule")
