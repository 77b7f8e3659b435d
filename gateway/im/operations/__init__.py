"""What users ask for, subject by subject; the same for a device's UP and for REST."""
