"""The release policy: who may be given which class key, and how it is wrapped. Default deny.

:mod:`shared.policy.document` loads it, :mod:`shared.policy.claims` builds the verified claims that it speaks
about, :mod:`shared.policy.evaluate` decides, :mod:`shared.policy.floor` keeps older ones out.
"""
