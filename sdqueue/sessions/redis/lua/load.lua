return load(argument())
