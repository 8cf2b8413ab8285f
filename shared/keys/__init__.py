"""Class keys: at rest as a JWE envelope, on the way to a device wrapped for its public key, checked by KCV.

Wrapping is the public side and anybody's. Unwrapping is the private side: only the CPM and the build tool
import it.
"""
