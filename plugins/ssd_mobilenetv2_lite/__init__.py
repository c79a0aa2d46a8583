"""MobileNetV2-SSD-lite on Pascal VOC."""
