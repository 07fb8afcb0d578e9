"""What is kept on disk: a base model's weights (`weights`) and a training run (`runs`)."""
