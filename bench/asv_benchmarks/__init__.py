"""Benchmarks of airspeed velocity (asv): thin, they call `bench.engine` of the commit that is installed.

asv imports these modules many times over, so that torch is imported within functions only. Lower is better throughout:
seconds for an image, and error instead of accuracy. `version` is raised by hand when a method changes: asv then keeps
the older figures apart.
"""
