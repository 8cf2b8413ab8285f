"""Who holds the device key and the storage root: the port, and one module for each back end."""
