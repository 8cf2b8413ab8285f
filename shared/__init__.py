"""The pure core: values and bytes in, values and bytes out; time is an argument, and no SDK is imported."""
