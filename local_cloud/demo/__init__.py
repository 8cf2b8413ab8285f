"""The demonstration: a real model from the build machine into two devices, and a refused third.

Every other deployable is met only as a process, through its command. Start at :mod:`local_cloud.demo.steps`,
which tells the story; the other modules are its stage.
"""
