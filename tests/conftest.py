from hypothesis import HealthCheck, settings

# No deadline: the first example of a test may compile a kernel.
settings.register_profile("quantize", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("quantize")
