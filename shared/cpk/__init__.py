"""The confidential package format, version 1: read strictly, written as the reference tool writes it.

``frame`` is the binary skeleton, ``manifest`` and ``schemes`` its JSON description, ``package`` both
together; ``sealing`` builds by a profile, ``trust`` and ``verifying`` decide whom to believe, ``opening``
decrypts; ``offline``, ``rewrap`` and ``segments`` are made of these. The format's specification is
``docs/spec/cpk-format.md``.
"""
